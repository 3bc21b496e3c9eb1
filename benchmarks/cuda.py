"""The live step on a CUDA device: captured graph beside plain path, cameras in one batch, ten thousand frames.

    python -m benchmarks.cuda --json benchmarks/results/cuda.json

Every row is a median of steps that are timed to their end on the device; ``graph`` and ``plain`` take turns. The whole
memory (``exact``) holds real frames; weights are random, since times do not depend on them. Sizes can be made small, so
that the script itself can be tried on a CPU (where nothing is captured).

Shape letters: B streams, T frames, H W pixels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnistream_core.bench.counts import frame_work, total
from omnistream_core.bench.machine import ceilings, facts, seconds
from omnistream_core.bench.official import OfficialStream
from omnistream_core.bench.run import sharpened_model
from omnistream_core.cache import KVCache
from omnistream_core.config import StreamConfig, preset
from omnistream_core.graphed import GraphedBackbone
from omnistream_core.model import OmniStreamModel, build_model
from omnistream_core.session import StreamSession
from omnistream_core.types import Frame


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration: side of the image, window (None keeps all), number of the frame, cameras."""

    size_px: int
    window: int | None
    frame: int
    cameras: int = 1


CASES = (
    Case(size_px=512, window=None, frame=64),
    Case(size_px=512, window=16, frame=64),
    Case(size_px=224, window=16, frame=64),
    Case(size_px=224, window=16, frame=64, cameras=8),
)


def measured(
    case: Case, model: OmniStreamModel, dtype: torch.dtype, options: argparse.Namespace, limits: Any
) -> dict[str, Any]:
    """Milliseconds a step, its floor, and frames a second over all cameras."""
    device, backbone = torch.device(options.device), model.backbone
    grid_hw = backbone.grid_hw((case.size_px, case.size_px))
    cache = KVCache(
        backbone.config,
        grid_hw=grid_hw,
        streams=case.cameras,
        window=case.window,
        dtype=dtype,
        device=device,
        block_frames=case.frame,
    )
    image = torch.randn(case.cameras, 1, 3, case.size_px, case.size_px, device=device).to(dtype)
    for _ in range(case.frame - 1):
        backbone(image, cache)
    rows = range(case.cameras)
    steps: dict[str, Callable[[], Tensor]] = {"plain": partial(again, backbone, image, cache, rows)}
    if device.type == "cuda" and case.window is not None:
        steps["graph"] = partial(again, GraphedBackbone(backbone), image, cache, rows)
    if options.official is not None and case.cameras == 1:
        official = OfficialStream(options.official, backbone)
        official.pretend(case.frame - 1, grid_hw)
        steps["official"] = partial(official.step, image, keep=False)
    rounds = [{name: seconds(step, device) for name, step in steps.items()} for _ in range(options.repeats + 3)][3:]
    times = {name: median(r[name] for r in rounds) for name in steps}
    visible = cache.keeps.place(case.frame - 1).fill
    work = total(
        frame_work(backbone.config, grid_hw=grid_hw, visible_frames=visible, dtype=dtype, streams=case.cameras)
    )
    fastest = min(value for name, value in times.items() if name != "official")
    return {
        **vars(case),
        "ms_p50": {name: round(1e3 * value, 3) for name, value in times.items()},
        "floor_ms": round(1e3 * work.floor_s(limits), 3),
        "frames_per_s": round(case.cameras / fastest, 1),
        "times_official": round(times["official"] / fastest, 2) if "official" in times else None,
    }


def again(backbone: Callable[..., Any], image: Tensor, cache: KVCache, rows: range) -> Tensor:
    patches = backbone(image, cache).patches_BTND
    cache.advance(rows, -1)
    return patches


def long_run(options: argparse.Namespace) -> dict[str, Any]:
    """A session over many frames, heads included: device memory and time of a frame, early and late."""
    dtype: Any = options.dtype
    session = StreamSession(build_model(preset(options.preset)), StreamConfig(device=options.device, dtype=dtype))
    image = np.random.default_rng(0).integers(0, 256, (options.long_size, options.long_size, 3), dtype=np.uint8)
    device, times, held = torch.device(options.device), [], []
    for number in range(options.long_frames):
        times.append(seconds(partial(session.step, Frame(image_HW3=image, index=number)), device))
        held.append(torch.cuda.memory_allocated() if device.type == "cuda" else session.stats.cache_bytes)
    tenth = max(1, options.long_frames // 10)
    return {
        "engine": session.engine,
        "frames": options.long_frames,
        "image_px": options.long_size,
        "ms_p50_second_tenth": round(1e3 * median(times[tenth : 2 * tenth]), 3),
        "ms_p50_last_tenth": round(1e3 * median(times[-tenth:]), 3),
        "bytes_second_tenth": max(held[tenth : 2 * tenth]),
        "bytes_last_tenth": max(held[-tenth:]),
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", default="large")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--long-frames", type=int, default=10_000)
    parser.add_argument("--long-size", type=int, default=224)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--official", type=Path, help="checkout of the official release")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = [Case(size_px=64, window=2, frame=4, cameras=c) for c in (1, 2)] if options.small else CASES
    dtype, device = getattr(torch, options.dtype), torch.device(options.device)
    limits, model = ceilings(dtype, device), sharpened_model(options.preset, device, dtype)
    rows = []
    for case in cases:
        rows.append(measured(case, model, dtype, options, limits))
        print(rows[-1], flush=True)
    endurance = long_run(options)
    print(endurance, flush=True)
    if options.json:
        known = {"preset": options.preset, "dtype": options.dtype, "ceilings": vars(limits)}
        figures = facts(options.device, torch.get_num_threads()) | known | {"rows": rows, "long_run": endurance}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
