"""The memory and the steps of the native path: the transformer blocks of one live frame in one call, on a CPU.

``NativeBackbone`` computes what ``Backbone`` computes through a cache: from weights that are packed once, with
LayerScale folded into the projections, with the residual stream and all sums in float32, and with a memory that is kept
in the layout in which it is multiplied. ``backbone.py`` stays the definition; tests hold the two together.

Shape letters: B streams, T frames, H heads, S tokens held, P tokens of a frame, C width, D channels of a head.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from omnistream_core import native
from omnistream_core.backbone import Backbone, check_cache
from omnistream_core.cache import FrameSlots, grown
from omnistream_core.config import BackboneConfig
from omnistream_core.layers.block import Block
from omnistream_core.layers.rope3d import rope_tables
from omnistream_core.native import NativeUnavailable
from omnistream_core.retention import Retention, retention
from omnistream_core.types import BackboneOutput

HEAD_DIM = 64
STAGES = ("norms", "qkv", "rope + cache write", "attention", "proj", "mlp")
MULTIPLIED = (torch.float32, torch.bfloat16)
KEPT = {torch.float32: (torch.float32, torch.bfloat16, torch.int8), torch.bfloat16: (torch.bfloat16, torch.int8)}


def check_native(
    config: BackboneConfig, dtype: torch.dtype, cache_dtype: torch.dtype, weight_dtype: torch.dtype | None = None
) -> None:
    """Raises ``NativeUnavailable`` with the reason where the native path cannot serve a backbone."""
    hidden = round(config.width * config.mlp_ratio)
    if config.head_dim != HEAD_DIM or hidden % HEAD_DIM:
        raise NativeUnavailable(
            f"heads of {config.head_dim} channels and an MLP of {hidden}: the native kernels are made for heads of "
            f"{HEAD_DIM} channels and an MLP of a multiple of {HEAD_DIM}"
        )
    if dtype not in MULTIPLIED or cache_dtype not in KEPT[dtype]:
        raise NativeUnavailable(f"{dtype} with a memory in {cache_dtype}: the native kernels know {KEPT}")
    if dtype == torch.bfloat16 and not native.kernels().multiplies_bfloat16():
        raise NativeUnavailable("this processor does not multiply bfloat16 (AVX-512 BF16)")
    if weight_dtype == torch.int8 and not native.kernels().multiplies_int8():
        raise NativeUnavailable("this processor does not multiply int8 (AVX-512 VNNI)")


class PackedCache(FrameSlots):
    """As ``KVCache``, on the CPU, in the layout of the native kernels; ``NativeBackbone.memory`` makes it.

    Args:
        dtype: of the stored keys and values; int8 has one scale a stream, head and channel, which grows (by a quarter
            more than needed, what is held is then rounded anew) when a frame exceeds it.
        multiplied: the dtype in which they are multiplied, which decides the layout.
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        grid_hw: tuple[int, int],
        keeps: Retention,
        streams: int = 1,
        dtype: torch.dtype,
        multiplied: torch.dtype,
        block_frames: int = 16,
    ) -> None:
        super().__init__(config, keeps, grid_hw=grid_hw, streams=streams, block_frames=block_frames)
        self.dtype, self.multiplied = dtype, multiplied
        self._columns = native.kernels().columns()
        heads, panels = config.heads, HEAD_DIM // self._columns
        self._keys = [torch.zeros(streams, heads, self.room * HEAD_DIM, dtype=dtype) for _ in range(config.depth)]
        self._values = [
            torch.zeros(streams, heads, panels, self.room * self._columns, dtype=dtype) for _ in range(config.depth)
        ]
        self._scales = [torch.zeros(streams, heads, 2, HEAD_DIM) for _ in range(config.depth * (dtype == torch.int8))]

    @property
    def room(self) -> int:
        """Tokens of a stream that there is room for: a whole number of panels."""
        return -(-self.slots * self.tokens_per_frame // self._columns) * self._columns

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(t.nbytes for t in (*self._keys, *self._values, *self._scales))

    def reset(self, rows: Iterable[int] | None = None) -> None:
        rows = list(range(self.streams) if rows is None else rows)
        super().reset(rows)
        for scales in self._scales:
            scales[rows] = 0

    def layers(self) -> ctypes.Array[native.Layer]:
        """Addresses of the stores, for the kernels."""
        scales: Sequence[Tensor | None] = self._scales or [None] * len(self._keys)
        return (native.Layer * len(self._keys))(
            *(
                native.Layer(keys.data_ptr(), values.data_ptr(), None if scale is None else scale.data_ptr())
                for keys, values, scale in zip(self._keys, self._values, scales, strict=True)
            )
        )

    def _grow(self) -> None:
        for layer, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            self._keys[layer] = grown(keys, self.room * HEAD_DIM, dim=2)
            self._values[layer] = grown(values, self.room * self._columns, dim=3)


class PackedBlock:
    """A block's weights as the kernels read them; ``dtype`` is that of the matrices."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        attn, mlp = block.attn, block.mlp
        scale1, scale2 = block.scale1.detach().float(), block.scale2.detach().float()
        weights = {
            "qkv": attn.qkv.weight.float(),
            "proj": attn.proj.weight.float() * scale1[:, None],
            "fc1": mlp.fc1.weight.float(),
            "fc2": mlp.fc2.weight.float() * scale2[:, None],
        }
        vectors = {
            "qkv_bias": attn.qkv.bias,
            "proj_bias": attn.proj.bias.float() * scale1,
            "fc1_bias": mlp.fc1.bias,
            "fc2_bias": mlp.fc2.bias.float() * scale2,
        }
        for name, norm in (("norm1", block.norm1), ("norm2", block.norm2)):
            vectors |= {name: norm.weight, f"{name}_bias": norm.bias}
        self.tensors = {name: packed(weight, dtype) for name, weight in weights.items()}
        self.tensors |= {name: vector.detach().float().contiguous().clone() for name, vector in vectors.items()}
        self.addresses = native.Block(**{name: tensor.data_ptr() for name, tensor in self.tensors.items()})


def packed(weight_nk: Tensor, dtype: torch.dtype) -> Tensor:
    """A (n, k) weight as the kernels read it; n is a multiple of their columns. int8 begins with n units and n sums."""
    weight_nk = weight_nk.detach().float().contiguous()
    head = 2 * 4 * len(weight_nk) if dtype == torch.int8 else 0
    out = torch.empty(head + weight_nk.numel(), dtype=dtype)
    pack = getattr(native.kernels(), f"pack_{name_of(dtype)}")
    pack(ctypes.c_void_p(weight_nk.data_ptr()), *weight_nk.shape, ctypes.c_void_p(out.data_ptr()))
    return out


def name_of(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


class NativeBackbone:
    """Calls like a ``Backbone`` with a cache, and gives the same numbers within rounding.

    Args:
        backbone: its weights are packed, and packed again when they have changed.
        dtype: in which products are computed.
        weight_dtype: int8 multiplies the linear layers of the blocks in int8 instead: weights with one unit an output
            channel, tokens rounded to 256 steps between their own smallest and largest value.

    Raises:
        NativeUnavailable: this machine or backbone cannot.
    """

    def __init__(
        self, backbone: Backbone, dtype: torch.dtype = torch.float32, *, weight_dtype: torch.dtype | None = None
    ) -> None:
        check_native(backbone.config, dtype, dtype, weight_dtype)
        self.backbone, self.config, self.dtype = backbone, backbone.config, dtype
        self.weight_dtype = weight_dtype or dtype
        self._parameters = list(backbone.blocks.parameters())
        self._pack()
        self.stage_s: Tensor | None = None  # where the kernels add the seconds of each of ``STAGES``
        self._work: dict[tuple[int, int], dict[str, Tensor]] = {}

    def _pack(self) -> None:
        self._blocks = [PackedBlock(cast(Block, block), self.weight_dtype) for block in self.backbone.blocks]
        self._addresses = (native.Block * len(self._blocks))(*(block.addresses for block in self._blocks))
        self._version = _version(self._parameters)

    def memory(
        self,
        *,
        grid_hw: tuple[int, int],
        streams: int = 1,
        window: int | None = 16,
        sink: int = 1,
        keeps: Retention | None = None,
        dtype: torch.dtype | None = None,
        block_frames: int = 16,
    ) -> PackedCache:
        """A memory for this backbone; arguments as of ``KVCache``, ``dtype`` that of the products by default."""
        check_native(self.config, self.dtype, dtype or self.dtype)
        return PackedCache(
            self.config,
            grid_hw=grid_hw,
            keeps=keeps or retention(window=window, sink=sink),
            streams=streams,
            dtype=dtype or self.dtype,
            multiplied=self.dtype,
            block_frames=block_frames,
        )

    @torch.inference_mode()
    def __call__(
        self, images_BT3HW: Tensor, cache: PackedCache, *, rows: Sequence[int] | None = None
    ) -> BackboneOutput:
        """As ``Backbone.forward``; the outputs have the backbone's dtype."""
        rows = list(range(cache.streams)) if rows is None else list(rows)
        batch, frames, _, height, width = images_BT3HW.shape
        check_cache(cache, self.backbone.grid_hw((height, width)), rows, batch)
        if cache.multiplied != self.dtype:
            raise ValueError(f"a memory for products in {cache.multiplied} does not fit a backbone of {self.dtype}")
        if self._version != _version(self._parameters):
            self._pack()
        cache.reserve(rows, frames)
        steps = [self._step(images_BT3HW[:, t : t + 1], cache, rows) for t in range(frames)]
        levels = tuple(torch.cat(level, dim=1) for level in zip(*(levels for _, levels in steps), strict=True))
        x_BTPC = torch.cat([x for x, _ in steps], dim=1)
        return self.backbone.output(x_BTPC, levels, cache.grid_hw)

    def _step(self, image_B1_3HW: Tensor, cache: PackedCache, rows: list[int]) -> tuple[Tensor, list[Tensor]]:
        """One frame of every stream in ``rows``: normed tokens (B, 1, P, C) and patches after each chosen block."""
        frame_index_B1 = torch.tensor([[cache.frame_count(row)] for row in rows])
        tokens_BTPC = self.backbone.embed(image_B1_3HW, frame_index_B1)
        x_BTPC = tokens_BTPC.float().contiguous()
        call, _held = self._call(x_BTPC, frame_index_B1, cache, rows)
        run = getattr(native.kernels(), f"run_{name_of(self.dtype)}_{name_of(cache.dtype)}")
        levels, done = [], 0
        for level in self.config.levels:
            run(ctypes.byref(call), done, level + 1)
            levels.append(x_BTPC[:, :, self.config.prefix_tokens :].to(tokens_BTPC.dtype, copy=True))
            done = level + 1
        run(ctypes.byref(call), done, self.config.depth)
        cache.advance(rows, 1)
        return self.backbone.norm(x_BTPC.to(tokens_BTPC.dtype)), levels

    def _call(
        self, x_BTPC: Tensor, frame_index_B1: Tensor, cache: PackedCache, rows: list[int]
    ) -> tuple[native.Call, list[Tensor]]:
        """The kernels' arguments, and the tensors that must live as long as they."""
        tokens = cache.tokens_per_frame
        places = _places(cache, rows)
        cos_BPD, sin_BPD = self._rope(frame_index_B1, cache.grid_hw)
        work = self._workspace(len(rows), tokens)
        tensors = places | work | {"cos": cos_BPD, "sin": sin_BPD, "x": x_BTPC}
        call = native.Call(
            threads=torch.get_num_threads(),
            streams=len(rows),
            tokens=tokens,
            width=self.config.width,
            heads=self.config.heads,
            hidden=round(self.config.width * self.config.mlp_ratio),
            rope_streams=len(cos_BPD),
            room=cache.room,
            eps=self.config.layer_norm_eps,
            blocks=self._addresses,
            stage_s=None if self.stage_s is None else self.stage_s.data_ptr(),
            layers=cache.layers(),
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        )
        return call, list(tensors.values())

    def _rope(self, frame_index_B1: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if bool((frame_index_B1 == frame_index_B1[:1]).all()):
            frame_index_B1 = frame_index_B1[:1]  # one table serves all streams
        tables = rope_tables(self.config, frame_index_B1, grid_hw, device=torch.device("cpu"), dtype=torch.float32)
        cos_BPD, sin_BPD = (table[:, 0].contiguous() for table in tables)
        return cos_BPD, sin_BPD

    def _workspace(self, streams: int, tokens: int) -> dict[str, Tensor]:
        """What passes from one stage to the next, made once a batch size."""
        if (streams, tokens) not in self._work:
            rows, width, hidden = streams * tokens, self.config.width, round(self.config.width * self.config.mlp_ratio)
            sizes = {"normed": width, "q": width, "attended": width, "hidden_values": hidden}
            work = {name: torch.empty(rows, size, dtype=self.dtype) for name, size in sizes.items()}
            work["qkv"] = torch.empty(rows, 3 * width)
            if self.weight_dtype == torch.int8:
                work |= {"bytes": torch.empty(rows, hidden, dtype=torch.uint8), "ranges": torch.empty(rows, 2)}
            self._work = {(streams, tokens): work}
        return self._work[streams, tokens]


def _version(parameters: list[nn.Parameter]) -> tuple[int, ...]:
    """Changes when a parameter is written to; tensors born in inference mode do not count their changes."""
    return tuple(0 if p.is_inference() else p._version for p in parameters)


def _places(cache: PackedCache, rows: list[int]) -> dict[str, Tensor]:
    """Where in the memory each stream's frame goes, in tokens."""
    placed, tokens = cache.placements(rows), cache.tokens_per_frame
    folds = [
        (p.fold.source * tokens, p.fold.target * tokens, p.fold.weight) if p.fold else (-1, -1, 0.0) for p in placed
    ]
    whole = {
        "rows": rows,
        "first_token": [p.slot * tokens for p in placed],
        "visible_tokens": [p.fill * tokens for p in placed],
        "fold_from": [source for source, _, _ in folds],
        "fold_into": [target for _, target, _ in folds],
    }
    places = {name: torch.tensor(values, dtype=torch.int32) for name, values in whole.items()}
    return places | {"fold_weight": torch.tensor([weight for _, _, weight in folds])}
