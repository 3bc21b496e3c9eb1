"""``omnistream bench``: floor, measured time and their ratio for one live frame, by stage, beside the official release.

Shape letters: B streams, T frames, N patches, D channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from omnistream_core.backbone import Backbone
from omnistream_core.bench.counts import Ceilings, Work, frame_work, total
from omnistream_core.bench.machine import ceilings, facts, now, seconds
from omnistream_core.bench.official import OfficialStream
from omnistream_core.cache import make_cache
from omnistream_core.config import StreamConfig, preset
from omnistream_core.graphed import GraphedBackbone
from omnistream_core.model import OmniStreamModel, build_model
from omnistream_core.native import NativeUnavailable
from omnistream_core.packed import STAGES, NativeBackbone
from omnistream_core.session import native_backbone

Step = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured.

    Attributes:
        preset: size of the model, with random weights.
        size_px: side of the square image.
        frames: numbers of the frames that are timed, counted from 1, all before them being known.
        dtypes, device, threads, engine: as of ``StreamConfig``.
        window, sink: of the bounded memory; the other one keeps every frame.
        far_frame: the bounded memory is timed at this number as well.
        repeats: of every step; the variants take turns, the median counts.
        official: folder of a checkout of the official release, measured in turn with ours.
    """

    preset: str = "small"
    size_px: int = 224
    frames: tuple[int, ...] = (20, 40)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    device: str = "cpu"
    engine: str = "auto"
    threads: int = 2
    window: int = 8
    sink: int = 1
    far_frame: int = 4000
    repeats: int = 7
    official: Path | None = None


@torch.inference_mode()
def bench(config: BenchConfig, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Everything measured, as plain values for JSON; ``say`` hears of each step."""
    torch.set_num_threads(config.threads)
    device, rows, stages = torch.device(config.device), [], []
    limits = {}
    for name in config.dtypes:
        dtype = getattr(torch, name)
        limits[name] = ceilings(dtype, device, config.repeats)
        say(f"{name}: ceilings {limits[name].flops_per_s / 1e9:.0f} GFLOP/s, {limits[name].bytes_per_s / 1e9:.1f} GB/s")
        runner = Runner(config, dtype)
        for case in runner.cases():
            rows += [row | {"dtype": name} for row in timed(case, config, limits[name], device)]
        stages += [row | {"dtype": name} for row in runner.stages(limits[name])]
        say(f"{name}: measured")
    known = {"preset": config.preset, "image_px": [config.size_px] * 2, "window": config.window, "sink": config.sink}
    return {
        **facts(config.device, config.threads),
        **known,
        "repeats": config.repeats,
        "ceilings": {name: dataclasses.asdict(limit) for name, limit in limits.items()},
        "rows": with_ratios(rows),
        "stages": stages,
    }


@dataclass(frozen=True, kw_only=True)
class Case:
    """One frame number: each variant's step, and what it must compute."""

    frame: int
    steps: dict[str, Step]
    work: dict[str, Work]


class Runner:
    """A model in one dtype, and the memories of the variants that are measured."""

    def __init__(self, config: BenchConfig, dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype
        self.model = sharpened_model(config.preset, torch.device(config.device), dtype)
        stream = StreamConfig(device=config.device, dtype=str(dtype).removeprefix("torch."), engine=config.engine)  # type: ignore[arg-type]
        self.fast = native_backbone(self.model, stream)
        graphs = config.engine == "auto" and config.device.startswith("cuda")
        self.backbone: Any = GraphedBackbone(self.model.backbone) if graphs else self.fast or self.model.backbone
        self.bounded = f"window {config.window}"
        self.grid_hw = self.model.backbone.grid_hw((config.size_px, config.size_px))
        self.memories = {"exact": self._memory(None), self.bounded: self._memory(config.window)}
        self.backbones = dict.fromkeys(self.memories, self.backbone)
        if (rounded := self._rounded()) is not None:
            name = f"{self.bounded}, int8 weights"
            self.backbones[name], self.memories[name] = rounded, self._memory(config.window)

    def cases(self) -> Iterator[Case]:
        """Runs the stream up to the last frame that is timed, and stops at each of them."""
        config, official = self.config, self._official()
        images_BT3HW = self._images(max(config.frames))
        for number, image in enumerate(images_BT3HW.split(1, dim=1), 1):
            if number in config.frames:
                if official is not None:
                    official.pretend(number - 1, self.grid_hw)
                yield self._case(number, image, official, tuple(self.memories))
            for name, memory in self.memories.items():
                self.backbones[name](image, memory)
        far = tuple(name for name in self.memories if name.startswith(self.bounded))
        for name in far:
            memory = self.memories[name]
            memory.advance([0], config.far_frame - 1 - memory.frame_count(0))
        yield self._case(config.far_frame, images_BT3HW[:, :1], None, far)

    def _rounded(self) -> NativeBackbone | None:
        """The same backbone with int8 weights, where this processor multiplies them."""
        try:
            return self.fast and NativeBackbone(self.model.backbone, self.dtype, weight_dtype=torch.int8)
        except NativeUnavailable:
            return None

    def _official(self) -> OfficialStream | None:
        """The release with our weights, once it has given our numbers for the first frames."""
        if self.config.official is None:
            return None
        official, memory = OfficialStream(self.config.official, self.model.backbone), self._memory(None)
        for image in self._images(3).split(1, dim=1):
            ours = self.backbone(image, memory).patches_BTND[:, 0]
            agree(ours, official.step(image, keep=True), self.dtype)
        return official

    def stages(self, limits: Ceilings) -> list[dict[str, Any]]:
        """Floor and time of every stage of the bounded step, and of the heads."""
        name, image = self.bounded, self._images(1)
        memory, device = self.memories[name], image.device
        work = self._work(name, self.config.far_frame)
        times = [self._stage_times(image) for _ in range(self.config.repeats)][1:]
        rows = []
        for stage in times[0]:
            row = {"variant": name, "stage": stage, "ms_p50": 1e3 * median(t[stage] for t in times)}
            if stage in work:
                row |= {"floor_ms": 1e3 * work[stage].floor_s(limits), "gflop": work[stage].flops / 1e9}
            rows.append(row)
        features = self.backbone(image, memory)
        assert self.model.heads is not None
        heads = [seconds(partial(self.model.heads, features), device) for _ in range(self.config.repeats)]
        return [*rows, {"variant": name, "stage": "heads", "ms_p50": 1e3 * median(heads)}]

    def _images(self, frames: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        size = self.config.size_px
        return torch.randn(1, frames, 3, size, size, generator=generator).to(self.config.device, self.dtype)

    def _memory(self, window: int | None) -> Any:
        settings: dict[str, Any] = {"grid_hw": self.grid_hw, "window": window, "sink": self.config.sink}
        if window is None:
            settings["block_frames"] = max(self.config.frames)
        if self.fast is not None:
            return self.fast.memory(**settings)
        return make_cache(self.model.backbone.config, dtype=self.dtype, device=self.config.device, **settings)

    def _work(self, variant: str, frame: int) -> dict[str, Work]:
        visible = self.memories[variant].keeps.place(frame - 1).fill if variant in self.memories else frame
        return frame_work(self.model.backbone.config, grid_hw=self.grid_hw, visible_frames=visible, dtype=self.dtype)

    def _case(self, frame: int, image: Tensor, official: OfficialStream | None, chosen: tuple[str, ...]) -> Case:
        steps: dict[str, Step] = {name: partial(self._again, name, image) for name in chosen}
        if official is not None:
            steps["official"] = partial(official.step, image, keep=False)
        return Case(frame=frame, steps=steps, work={name: total(self._work(name, frame)) for name in steps})

    def _again(self, variant: str, image: Tensor) -> Tensor:
        """The next frame; the memory then stands where it stood before, and the same slot is written again."""
        patches = self.backbones[variant](image, self.memories[variant]).patches_BTND[:, 0]
        self.memories[variant].advance([0], -1)
        return patches

    def _stage_times(self, image: Tensor) -> dict[str, float]:
        device = image.device
        embed = seconds(partial(self.model.backbone.embed, image, torch.tensor([[1]])), device)
        if self.fast is not None:
            self.fast.stage_s = torch.zeros(len(STAGES), dtype=torch.float64)
            whole = seconds(partial(self._again, self.bounded, image), device)
            times = dict(zip(STAGES, self.fast.stage_s.tolist(), strict=True))
            self.fast.stage_s = None
        else:
            with module_times(self.model.backbone, device) as times:
                whole = seconds(partial(self._again, self.bounded, image), device)
        return {"patch embed": embed, **times, "rest": whole - embed - sum(times.values()), "whole step": whole}


@contextmanager
def module_times(backbone: Backbone, device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds in each kind of module of the plain path, waiting for the device at every border."""
    kinds = {
        "norms": ("norm1", "norm2"),
        "qkv": ("attn.qkv",),
        "proj": ("attn.proj",),
        "mlp": ("mlp",),
        "all": ("attn",),
    }
    times, started, handles = dict.fromkeys(kinds, 0.0), {}, []

    def begin(module: nn.Module, *_: Any) -> None:
        started[module] = now(device)

    def end(kind: str, module: nn.Module, *_: Any) -> None:
        times[kind] += now(device) - started[module]

    for block in backbone.blocks:
        for kind, names in kinds.items():
            for name in names:
                module = block.get_submodule(name)
                handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(partial(end, kind))]
    try:
        yield times
        times["rope + cache + attention"] = times.pop("all") - times["qkv"] - times["proj"]
    finally:
        for handle in handles:
            handle.remove()


def agree(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    """Raises ``AssertionError`` where the official release and ours do not compute the same."""
    bound = 1e-3 if dtype == torch.float32 else 0.1
    difference = float((ours.float() - theirs.float()).abs().mean() / theirs.float().abs().mean())
    if not difference < bound:
        raise AssertionError(f"ours and the official release differ by {difference:.2e} on average, above {bound}")


def sharpened_model(name: str, device: torch.device, dtype: torch.dtype) -> OmniStreamModel:
    """The preset with the official layout of angles and random weights under which attention is far from uniform."""
    config = preset(name)
    backbone = dataclasses.replace(config.backbone, rope_layout="official", layer_scale_init=0.1)
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(config, backbone=backbone)).eval()
    for block in model.backbone.blocks:
        block.get_parameter("attn.qkv.weight").data.mul_(5)
    model.to(device, dtype)
    if model.heads is not None:
        model.heads.lay_out_for_streaming()  # as a session has them
    return model


def timed(case: Case, config: BenchConfig, limits: Ceilings, device: torch.device) -> list[dict[str, Any]]:
    """A row a variant. They take turns, so that a disturbance meets all alike; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in case.steps}
    for _ in range(config.repeats + 1):
        for name, step in case.steps.items():
            times[name].append(seconds(step, device))
    rows = []
    for name, values in times.items():
        work, middle = case.work[name], median(values[1:])
        rows.append(
            {
                "variant": name,
                "frame": case.frame,
                "ms_p50": 1e3 * middle,
                "ms_min": 1e3 * min(values[1:]),
                "gflop": work.flops / 1e9,
                "floor_ms": 1e3 * work.floor_s(limits),
                "of_product_ceiling": work.flops / middle / limits.flops_per_s,
            }
        )
    return rows


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds how many times as fast as the official release each row is, where that was measured at the same frame."""
    official = {(r["dtype"], r["frame"]): r["ms_p50"] for r in rows if r["variant"] == "official"}
    out = []
    for row in rows:
        reference = official.get((row["dtype"], row["frame"]))
        out.append(row if reference is None else row | {"times_official": reference / row["ms_p50"]})
    return out
