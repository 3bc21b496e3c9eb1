"""The memory of a stream: rotated keys and values of its sink frames and of a ring of recent frames.

Shape letters: B streams, H heads, S tokens held, P tokens of a frame, D channels of a head.

A frame with absolute number f lies in slot f while f < sink, else in slot sink + (f - sink) % window. Attention does
not depend on the order of keys, so the ring is never unrolled; slots fill from the left, so the valid part is a prefix,
and a live frame attends to plain views of it without any mask. Without a window the slots grow in blocks, doubling at
least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from omnistream_core.config import BackboneConfig
from omnistream_core.errors import ConfigError


class KVCache:
    """Keys and values of B streams over all blocks, allocated once (bounded) or in growing blocks (unbounded).

    Args:
        config: of the backbone it serves.
        grid_hw: patches of a frame; all streams of one cache share it.
        streams: number of streams (B).
        window, sink, block_frames: see ``StreamConfig``.
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
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        block_frames: int = 16,
    ) -> None:
        if streams < 1 or sink < 0 or (window is not None and window < 1) or block_frames < 1:
            raise ConfigError(
                f"cache of {streams} streams, sink {sink}, window {window}, block_frames {block_frames}: streams and "
                "block_frames from 1, sink from 0, window None or from 1 are needed"
            )
        self.grid_hw = grid_hw
        self.window = window
        self.sink = sink
        self.block_frames = block_frames
        self.tokens_per_frame = config.tokens_per_frame(grid_hw)
        self._frame_count = [0] * streams
        slots = block_frames if window is None else sink + window
        shape = (streams, config.heads, slots * self.tokens_per_frame, config.head_dim)
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
    def streams(self) -> int:
        """Number of streams (B)."""
        return len(self._frame_count)

    @property
    def slots(self) -> int:
        """Frames a stream can hold now."""
        return self._keys_BHSD[0].shape[2] // self.tokens_per_frame

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(t.nbytes for t in (*self._keys_BHSD, *self._values_BHSD))

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored keys and values."""
        return self._keys_BHSD[0].dtype

    def frame_count(self, row: int) -> int:
        """Frames stream ``row`` has seen since its last reset; not bounded by the window."""
        return self._frame_count[row]

    def fill(self, row: int) -> int:
        """Frames stream ``row`` remembers now."""
        count = self._frame_count[row]
        return count if self.window is None else min(count, self.sink + self.window)

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Forget streams ``rows`` (all by default); the others keep what they have."""
        for row in range(self.streams) if rows is None else rows:
            self._frame_count[row] = 0

    def reserve(self, rows: Sequence[int], frames: int) -> None:
        """Make room for ``frames`` more frames of ``rows``. Does nothing to a bounded memory."""
        if self.window is not None:
            return
        needed = max(self._frame_count[row] for row in rows) + frames
        if needed <= self.slots:
            return
        blocks = -(-max(needed, 2 * self.slots) // self.block_frames)
        for store in (self._keys_BHSD, self._values_BHSD):
            for layer, old_BHSD in enumerate(store):
                store[layer] = _grown(old_BHSD, blocks * self.block_frames * self.tokens_per_frame)

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
        for positions, slot, _ in groups:
            where = slice(slot * self.tokens_per_frame, (slot + 1) * self.tokens_per_frame)
            index, source = _as_slice([rows[b] for b in positions]), _as_slice(positions)
            self._keys_BHSD[layer][index, :, where] = keys_BHPD[source].to(self.dtype)
            self._values_BHSD[layer][index, :, where] = values_BHPD[source].to(self.dtype)
        return [self._visible(layer, rows, positions, fill) for positions, _, fill in groups]

    def advance(self, rows: Sequence[int], frames: int) -> None:
        """Count ``frames`` more frames of ``rows``; called once, after the last block has written them."""
        for row in rows:
            self._frame_count[row] += frames

    def _visible(
        self, layer: int, rows: Sequence[int], positions: list[int], fill: int
    ) -> tuple[list[int], Tensor, Tensor]:
        index, tokens = _as_slice([rows[b] for b in positions]), fill * self.tokens_per_frame
        return positions, self._keys_BHSD[layer][index, :, :tokens], self._values_BHSD[layer][index, :, :tokens]

    def _groups(self, rows: Sequence[int], ahead: int) -> list[tuple[list[int], int, int]]:
        """(positions in ``rows``, slot, frames visible) for each distinct slot and fill."""
        groups: dict[tuple[int, int], list[int]] = {}
        for position, row in enumerate(rows):
            frame = self._frame_count[row] + ahead
            if self.window is None or frame < self.sink:
                slot, fill = frame, frame + 1
            else:
                slot = self.sink + (frame - self.sink) % self.window
                fill = min(frame + 1, self.sink + self.window)
            groups.setdefault((slot, fill), []).append(position)
        return [(positions, slot, fill) for (slot, fill), positions in groups.items()]


def _as_slice(numbers: list[int]) -> slice | list[int]:
    """A slice where the numbers are consecutive, so that indexing with it is a view."""
    first = numbers[0]
    return slice(first, first + len(numbers)) if numbers == list(range(first, first + len(numbers))) else numbers


def _grown(old_BHSD: Tensor, tokens: int) -> Tensor:
    b, h, held, d = old_BHSD.shape
    new_BHSD = old_BHSD.new_zeros(b, h, tokens, d)
    new_BHSD[:, :, :held] = old_BHSD
    return new_BHSD
