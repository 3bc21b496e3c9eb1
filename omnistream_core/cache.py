"""The memory of a stream: rotated keys and values of the frames that it keeps.

Shape letters: B streams, H heads, S tokens held, P tokens of a frame, D channels of a head.

Which frame lies in which slot is the business of ``retention``. Attention does not depend on the order of keys, so a
ring is never unrolled; slots fill from the left, so the valid part is a prefix, and a live frame attends to plain views
of it without any mask. Without a bound the slots grow in blocks, doubling at least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from omnistream_core.config import BackboneConfig, StreamConfig
from omnistream_core.errors import ConfigError
from omnistream_core.retention import Older, Placement, Retention, retention

PANEL_TOKENS = 64  # a packed memory is a whole number of these


class FrameSlots:
    """What every memory shares: how many frames each stream has seen, where the next goes, and when to make room."""

    def __init__(
        self, config: BackboneConfig, keeps: Retention, *, grid_hw: tuple[int, int], streams: int, block_frames: int
    ) -> None:
        if streams < 1 or block_frames < 1:
            raise ConfigError(f"cache of {streams} streams, block_frames {block_frames}: both from 1 are needed")
        self.keeps = keeps
        self.block_frames = block_frames
        self.grid_hw = grid_hw
        self.tokens_per_frame = config.tokens_per_frame(grid_hw)
        self.slots = block_frames if keeps.slots is None else keeps.slots
        self._frame_count = [0] * streams

    @property
    def streams(self) -> int:
        """Number of streams (B)."""
        return len(self._frame_count)

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        raise NotImplementedError

    def frame_count(self, row: int) -> int:
        """Frames stream ``row`` has seen since its last reset; not bounded by the window."""
        return self._frame_count[row]

    def fill(self, row: int) -> int:
        """Slots of stream ``row`` that hold something now."""
        count = self._frame_count[row]
        return self.keeps.place(count - 1).fill if count else 0

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Forget streams ``rows`` (all by default); the others keep what they have."""
        for row in range(self.streams) if rows is None else rows:
            self._frame_count[row] = 0

    def reserve(self, rows: Sequence[int], frames: int) -> None:
        """Make room for ``frames`` more frames of ``rows``. Does nothing to a bounded memory."""
        if self.keeps.slots is not None:
            return
        needed = max(self._frame_count[row] for row in rows) + frames
        if needed > self.slots:
            blocks = -(-max(needed, 2 * self.slots) // self.block_frames)
            self.slots = blocks * self.block_frames
            self._grow()

    def advance(self, rows: Sequence[int], frames: int) -> None:
        """Count ``frames`` more frames of ``rows``; called once, after the last block has written them."""
        for row in rows:
            self._frame_count[row] += frames

    def placements(self, rows: Sequence[int], ahead: int = 0) -> list[Placement]:
        """Where the next frame of each of ``rows`` goes, ``ahead`` frames after those that are counted."""
        return [self.keeps.place(self._frame_count[row] + ahead) for row in rows]

    def _grow(self) -> None:
        """Give the stores room for ``slots`` frames and keep what they hold."""
        raise NotImplementedError


class KVCache(FrameSlots):
    """Keys and values of B streams over all blocks, allocated once (bounded) or in growing blocks (unbounded).

    Args:
        config: of the backbone it serves.
        grid_hw: patches of a frame; all streams of one cache share it.
        streams: number of streams (B).
        window, sink, block_frames: see ``StreamConfig``.
        keeps: the policy, where it is another than what ``window`` and ``sink`` say.
        dtype, device: of the stored keys and values.
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        grid_hw: tuple[int, int],
        streams: int = 1,
        window: int | None = 16,
        sink: int = 1,
        keeps: Retention | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        block_frames: int = 16,
    ) -> None:
        keeps = keeps or retention(window=window, sink=sink)
        super().__init__(config, keeps, grid_hw=grid_hw, streams=streams, block_frames=block_frames)
        shape = (streams, config.heads, self.slots * self.tokens_per_frame, config.head_dim)
        # zeros: an attention kernel may read whole vectors past the valid prefix; NaN there must not exist.
        self._keys_BHSD = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.depth)]
        self._values_BHSD = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.depth)]

    @staticmethod
    def bytes_needed(
        config: BackboneConfig, *, grid_hw: tuple[int, int], frames: int, streams: int = 1, dtype: torch.dtype
    ) -> int:
        """Exact size of a memory of ``frames`` frames (``sink + window`` when bounded), before it is allocated."""
        tokens = streams * frames * config.tokens_per_frame(grid_hw)
        return 2 * config.depth * tokens * config.width * dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(t.nbytes for t in (*self._keys_BHSD, *self._values_BHSD))

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored keys and values."""
        return self._keys_BHSD[0].dtype

    def remember(
        self, layer: int, rows: Sequence[int], ahead: int, keys_BHPD: Tensor, values_BHPD: Tensor
    ) -> list[tuple[list[int], Tensor, Tensor]]:
        """Write one frame of every stream in ``rows``, then return what each may see.

        Args:
            ahead: frames of this call that come before the one written (the counter moves only in ``advance``).
            keys_BHPD, values_BHPD: of that frame; row b belongs to stream ``rows[b]``. Keys are rotated.

        Returns:
            Groups of positions b that see equally many frames, each with its (b, H, S, D) keys and values: views of the
            memory where the group is a run of consecutive streams, copies otherwise. Every key may be attended to.
        """
        groups = self._groups(rows, ahead)
        for positions, placed in groups:
            index, source = _as_slice([rows[b] for b in positions]), _as_slice(positions)
            self._write(self._keys_BHSD, layer, index, placed, keys_BHPD[source])
            self._write(self._values_BHSD, layer, index, placed, values_BHPD[source])
        return [self._visible(layer, rows, positions, placed.fill) for positions, placed in groups]

    def _write(
        self, store: list[Tensor], layer: int, index: slice | list[int], placed: Placement, new_BHPD: Tensor
    ) -> None:
        if (fold := placed.fold) is not None:
            source, target = (store[layer][index, :, self._tokens(slot)].float() for slot in (fold.source, fold.target))
            store[layer][index, :, self._tokens(fold.target)] = self._stored(target.lerp(source, fold.weight))
        store[layer][index, :, self._tokens(placed.slot)] = self._stored(new_BHPD)

    def _stored(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)

    def _tokens(self, slot: int) -> slice:
        return slice(slot * self.tokens_per_frame, (slot + 1) * self.tokens_per_frame)

    def _visible(
        self, layer: int, rows: Sequence[int], positions: list[int], fill: int
    ) -> tuple[list[int], Tensor, Tensor]:
        index, tokens = _as_slice([rows[b] for b in positions]), fill * self.tokens_per_frame
        return positions, self._keys_BHSD[layer][index, :, :tokens], self._values_BHSD[layer][index, :, :tokens]

    def _groups(self, rows: Sequence[int], ahead: int) -> list[tuple[list[int], Placement]]:
        """Positions in ``rows`` by the placement that they share."""
        groups: dict[Placement, list[int]] = {}
        for position, placed in enumerate(self.placements(rows, ahead)):
            groups.setdefault(placed, []).append(position)
        return [(positions, placed) for placed, positions in groups.items()]

    def _grow(self) -> None:
        for store in (self._keys_BHSD, self._values_BHSD):
            for layer, old_BHSD in enumerate(store):
                store[layer] = grown(old_BHSD, self.slots * self.tokens_per_frame, dim=2)


class ScaledKVCache(KVCache):
    """As ``KVCache`` in one byte a value, int8 or float8_e4m3fn, with a scale a stream, head and channel.

    A scale grows by a quarter more than needed when a frame exceeds it, and what is held is then rounded anew; so it is
    exact to half a step of the largest value that the channel has shown. What may be seen is given back widened to
    float32: a copy, for kernels that cannot widen themselves.
    """

    LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}

    def __init__(self, config: BackboneConfig, *, dtype: torch.dtype, **settings: Any) -> None:
        super().__init__(config, dtype=dtype, **settings)
        shape = (self.streams, config.heads, 1, config.head_dim)
        self._scales = {
            id(store): [t.new_zeros(shape, dtype=torch.float32) for t in store]
            for store in (self._keys_BHSD, self._values_BHSD)
        }

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(t.nbytes for scales in self._scales.values() for t in scales)

    def reset(self, rows: Iterable[int] | None = None) -> None:
        rows = list(range(self.streams) if rows is None else rows)
        super().reset(rows)
        for scale_BH1D in (t for scales in self._scales.values() for t in scales):
            scale_BH1D[rows] = 0

    def _write(
        self, store: list[Tensor], layer: int, index: slice | list[int], placed: Placement, new_BHPD: Tensor
    ) -> None:
        scale_BH1D, largest = self._scales[id(store)][layer], self.LARGEST[self.dtype]
        needed_bH1D = new_BHPD.float().abs().amax(2, keepdim=True) / largest
        old_bH1D = scale_BH1D[index]
        if bool((needed_bH1D > old_bH1D).any()):
            grown_bH1D = torch.where(needed_bH1D > old_bH1D, 1.25 * needed_bH1D, old_bH1D).clamp(min=1e-30)
            store[layer][index] = self._stored(store[layer][index].float() * (old_bH1D / grown_bH1D))
            scale_BH1D[index] = grown_bH1D
        super()._write(store, layer, index, placed, new_BHPD.float() / scale_BH1D[index].clamp(min=1e-30))

    def _stored(self, x: Tensor) -> Tensor:
        return (x.round() if self.dtype == torch.int8 else x).to(self.dtype)

    def _visible(
        self, layer: int, rows: Sequence[int], positions: list[int], fill: int
    ) -> tuple[list[int], Tensor, Tensor]:
        index = _as_slice([rows[b] for b in positions])
        _, keys, values = super()._visible(layer, rows, positions, fill)
        scales = (self._scales[id(store)][layer][index] for store in (self._keys_BHSD, self._values_BHSD))
        keys, values = (held.float() * scale for held, scale in zip((keys, values), scales, strict=True))
        return positions, keys, values


def retention_of(
    config: StreamConfig, backbone: BackboneConfig, *, grid_hw: tuple[int, int], streams: int, dtype: torch.dtype
) -> Retention:
    """The policy that a stream's settings ask for; with ``cache_mb`` and no window, as long a window as fits.

    Raises:
        ConfigError: ``cache_mb`` has no room for the window asked for, or for any.
    """
    window = config.window
    if config.cache_mb is not None:
        room = _frames_within(config.cache_mb, backbone, grid_hw=grid_hw, streams=streams, dtype=dtype)
        longest = room - config.sink - config.older
        if longest < (window or 1):
            raise ConfigError(
                f"cache_mb {config.cache_mb} holds {max(room, 0)} frames of {grid_hw[1]}x{grid_hw[0]} patches for "
                f"{streams} stream(s) in {dtype}: sink {config.sink} + older {config.older} + window {window or 1} "
                "do not fit"
            )
        window = window or longest
    if config.older and window is not None:
        return Older(
            window=window, sink=config.sink, older=config.older, every=config.older_every, mean=config.older_mean
        )
    return retention(window=window, sink=config.sink)


def _frames_within(
    megabytes: float, config: BackboneConfig, *, grid_hw: tuple[int, int], streams: int, dtype: torch.dtype
) -> int:
    """Frames a memory can hold within a bound, scales and the packed layout's rounding to whole panels included."""
    scales = 2 * config.depth * streams * config.width * 4 if dtype.itemsize == 1 else 0
    token = 2 * config.depth * streams * config.width * dtype.itemsize
    tokens = int((megabytes * 2**20 - scales) / token) // PANEL_TOKENS * PANEL_TOKENS
    return tokens // config.tokens_per_frame(grid_hw)


def make_cache(config: BackboneConfig, *, dtype: torch.dtype, **settings: Any) -> KVCache:
    """A ``KVCache``, or a ``ScaledKVCache`` where ``dtype`` has one byte."""
    return (ScaledKVCache if dtype in ScaledKVCache.LARGEST else KVCache)(config, dtype=dtype, **settings)


def grown(old: Tensor, length: int, *, dim: int) -> Tensor:
    """``old`` with zeros after it along ``dim``, up to ``length``."""
    shape = list(old.shape)
    shape[dim] = length
    new = old.new_zeros(shape)
    new.narrow(dim, 0, old.shape[dim]).copy_(old)
    return new


def _as_slice(numbers: list[int]) -> slice | list[int]:
    """A slice where the numbers are consecutive, so that indexing with it is a view."""
    first = numbers[0]
    return slice(first, first + len(numbers)) if numbers == list(range(first, first + len(numbers))) else numbers
