"""Have the ratios held? Measures the bench again, small and short, and compares ratios, never times.

    python -m benchmarks.check            # exit code 1 when a ratio fell by more than 20 % of what is written down

Ratios are of steps that took turns in one run: the native path over the plain one, a bounded memory over a whole one, a
far frame over a near one. ``--write`` writes today's down in ``benchmarks/results/engine_check.json``. A ratio that
seems to have fallen is measured again, twice, before it counts: other work on a machine disturbs even turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from omnistream_core.backbone import BackboneOutput
from omnistream_core.bench.machine import facts, seconds
from omnistream_core.bench.run import sharpened_model
from omnistream_core.cache import FrameSlots, KVCache
from omnistream_core.packed import NativeBackbone

WRITTEN = Path(__file__).parent / "results" / "engine_check.json"
ALLOWED = 0.8  # of the ratio written down
CPU, SIZE_PX, FRAMES, WINDOW = torch.device("cpu"), 160, 12, 3
PAIRS = {  # ratio: time of the first over time of the second
    "native over plain, whole memory": ("plain whole", "native whole"),
    "native over plain, window": ("plain window", "native window"),
    "window over whole memory, native": ("native whole", "native window"),
    "frame 10,000 over frame 12, native": ("native window", "native far"),
}
Step: TypeAlias = Callable[[], Tensor]
Memory = TypeVar("Memory", bound=FrameSlots)


def steps_of(dtype: torch.dtype) -> dict[str, Step]:
    """The next frame of each kind of memory, as a function that may be called again and again."""
    backbone = sharpened_model("small", CPU, dtype).backbone
    native, grid_hw = NativeBackbone(backbone, dtype), (SIZE_PX // 16, SIZE_PX // 16)
    plain_memory = partial(KVCache, backbone.config, grid_hw=grid_hw, dtype=dtype)
    native_memory = partial(native.memory, grid_hw=grid_hw)
    steps = {
        "plain whole": last_frame(backbone, plain_memory(window=None), dtype),
        "plain window": last_frame(backbone, plain_memory(window=WINDOW), dtype),
        "native whole": last_frame(native, native_memory(window=None), dtype),
        "native window": last_frame(native, native_memory(window=WINDOW), dtype),
    }
    far = native_memory(window=WINDOW)
    steps["native far"] = last_frame(native, far, dtype)
    far.advance([0], 10_000 - FRAMES)
    return steps


def last_frame(model: Callable[[Tensor, Memory], BackboneOutput], memory: Memory, dtype: torch.dtype) -> Step:
    """Shows the memory all frames but the last; that one as a step that leaves the memory as it was."""
    images = torch.randn(1, FRAMES, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0)).to(dtype)
    *earlier, last = images.split(1, dim=1)
    for image in earlier:
        model(image, memory)

    def step() -> Tensor:
        patches = model(last, memory).patches_BTND
        memory.advance([0], -1)
        return patches

    return step


def ratios(dtypes: list[str], repeats: int) -> dict[str, float]:
    """Each pair's ratio: the median over rounds in which all steps had their turn."""
    found = {}
    for dtype in dtypes:
        steps = steps_of(getattr(torch, dtype))
        rounds = [{name: seconds(step, CPU) for name, step in steps.items()} for _ in range(repeats + 1)][1:]
        for name, (slow, fast) in PAIRS.items():
            found[f"{dtype}: {name}"] = median(times[slow] / times[fast] for times in rounds)
    return found


def fallen(now: dict[str, float], before: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Ratios below what is allowed, with what is written down; one that is missing today counts as fallen."""
    return {name: (now.get(name, 0.0), ratio) for name, ratio in before.items() if now.get(name, 0.0) < ALLOWED * ratio}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--write", action="store_true", help="write today's ratios down instead of comparing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = ratios(options.dtypes, options.repeats)
    if options.write:
        rounded = {name: round(ratio, 3) for name, ratio in found.items()}
        WRITTEN.write_text(json.dumps(facts("cpu", options.threads) | {"ratios": rounded}, indent=1) + "\n")
        return
    before = {n: r for n, r in json.loads(WRITTEN.read_text())["ratios"].items() if n.split(":")[0] in options.dtypes}
    for _ in range(2):
        if fallen(found, before):
            found = {n: max(r, found[n]) for n, r in ratios(options.dtypes, options.repeats).items()}
    for name, ratio in before.items():
        print(f"{name:50} {found[name]:6.2f}  written down {ratio:6.2f}")
    if low := fallen(found, before):
        sys.exit(f"fallen by more than {100 * (1 - ALLOWED):.0f} %: {', '.join(low)}")


if __name__ == "__main__":
    main()
