"""Time of one live frame, given the frames before it, four ways with the same weights, side by side in one run.

    python -m benchmarks.streaming --json benchmarks/results/streaming.json

``ours``       the backbone with its preallocated memory of all earlier frames: no mask, no copy
``window8``    the same with a memory of the first frame and the eight newest
``concat``     a memory that grows by concatenation in every block at every frame, and a dense mask that is true
               everywhere: how the official release streams
``recompute``  no memory: the whole clip again at every frame

Only the backbone is timed; heads would add the same to each. Before any timing, the outputs of ``concat`` and
``recompute`` are checked against ``ours`` in float32, and ``window8`` against a pass over the whole clip under the same
visibility, with attention that is far from uniform. Repeats of the three live variants are interleaved, so that a
disturbance meets all alike, and the median is reported; ``recompute`` takes seconds a frame and is repeated less often.

Shape letters: B streams, T frames, S tokens of a frame, H heads, D channels.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnistream_core.backbone import Backbone
from omnistream_core.bench.machine import facts
from omnistream_core.cache import KVCache
from omnistream_core.config import preset
from omnistream_core.layers.block import Block
from omnistream_core.layers.rope3d import rope_tables, rotate
from omnistream_core.model import build_model

TOLERANCE = 1e-4
WINDOW, SINK = 8, 1
Step = Callable[[], Tensor]


def blocks_of(backbone: Backbone) -> list[Block]:
    return [block for block in backbone.blocks if isinstance(block, Block)]


class ConcatenatedMemory:
    """The official release's way of streaming: keys and values are concatenated to those of all frames before."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.frames = 0
        self.past: list[tuple[Tensor, Tensor]] = []

    def copy(self) -> ConcatenatedMemory:
        """Another memory of the same frames; nothing is ever written in place, so the tensors are shared."""
        twin = ConcatenatedMemory(self.backbone)
        twin.frames, twin.past = self.frames, self.past
        return twin

    def step(self, image_BT3HW: Tensor, *, keep: bool) -> Tensor:
        """Patch features of the next frame; it is remembered if ``keep``."""
        backbone, config = self.backbone, self.backbone.config
        index_BT = torch.tensor([[self.frames]])
        x_BSC = backbone.embed(image_BT3HW, index_BT).flatten(1, 2)
        height, width = image_BT3HW.shape[-2:]
        grid_hw = backbone.grid_hw((height, width))
        tables = rope_tables(config, index_BT, grid_hw, device=x_BSC.device, dtype=x_BSC.dtype)
        rope_BSD = tuple(table.flatten(1, 2) for table in tables)
        present = []
        for number, block in enumerate(blocks_of(backbone)):
            b, s, c = x_BSC.shape
            qkv = block.attn.qkv(block.norm1(x_BSC)).view(b, s, 3, config.heads, c // config.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            q, k = rotate(q, *rope_BSD), rotate(k, *rope_BSD)
            if self.past:
                k = torch.cat([self.past[number][0], k], dim=2)
                v = torch.cat([self.past[number][1], v], dim=2)
            present.append((k, v))
            mask_SS = torch.ones(s, k.shape[2], dtype=torch.bool, device=q.device)
            out_BHSD = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_SS)
            x_BSC = x_BSC + block.scale1 * block.attn.proj(out_BHSD.transpose(1, 2).reshape(b, s, c))
            x_BSC = x_BSC + block.scale2 * block.mlp(block.norm2(x_BSC))
        if keep:
            self.past, self.frames = present, self.frames + 1
        return backbone.norm(x_BSC)[:, config.prefix_tokens :]


def stepped(backbone: Backbone, cache: KVCache, image_BT3HW: Tensor) -> Tensor:
    """Patch features of the next frame through our memory; the memory then stands where it stood before."""
    patches = backbone(image_BT3HW, cache).patches_BTND[:, 0]
    cache.advance([0], -1)  # the same slot is written again by the next repeat
    return patches


def prepared(backbone: Backbone, clip_BT3HW: Tensor, frames: list[int]) -> dict[int, dict[str, Step]]:
    """For each number of frames, each variant as a function that computes the newest, those before it being known."""
    height, width = clip_BT3HW.shape[-2:]
    side: dict[str, Any] = {"grid_hw": backbone.grid_hw((height, width)), "dtype": clip_BT3HW.dtype}
    whole = KVCache(backbone.config, window=None, block_frames=max(frames), **side)
    bounded = KVCache(backbone.config, window=WINDOW, sink=SINK, **side)
    memory = ConcatenatedMemory(backbone)
    steps: dict[int, dict[str, Step]] = {}
    for number in range(1, max(frames) + 1):
        newest = clip_BT3HW[:, number - 1 : number]
        if number in frames:
            steps[number] = {
                "ours": partial(stepped, backbone, copy.deepcopy(whole), newest),
                "window8": partial(stepped, backbone, copy.deepcopy(bounded), newest),
                "concat": partial(memory.copy().step, newest, keep=False),
                "recompute": partial(recomputed, backbone, clip_BT3HW[:, :number]),
            }
        if number < max(frames):
            backbone(newest, whole)
            backbone(newest, bounded)
            memory.step(newest, keep=True)
    return steps


def recomputed(backbone: Backbone, clip_BT3HW: Tensor) -> Tensor:
    """Patch features of the newest frame from the whole clip."""
    return backbone(clip_BT3HW).patches_BTND[:, -1]


def visible_through_window(frames: int) -> Tensor:
    """(T, T) which frame sees which through a window with sinks."""
    query, key = torch.arange(frames)[:, None], torch.arange(frames)[None]
    return (key <= query) & ((key < SINK) | (key > query - WINDOW))


def verify(backbone: Backbone, clip_BT3HW: Tensor, steps: dict[str, Step]) -> dict[str, float]:
    """Largest difference of each variant from its reference; raises ``AssertionError`` above the tolerance."""
    ours = steps["ours"]()
    under_mask = backbone(clip_BT3HW, visible_TT=visible_through_window(clip_BT3HW.shape[1])).patches_BTND[:, -1]
    pairs = {"concat": ours, "recompute": ours, "window8": under_mask}
    differences = {name: float((steps[name]() - reference).abs().max()) for name, reference in pairs.items()}
    if max(differences.values()) > TOLERANCE:
        raise AssertionError(f"outputs differ: {differences}, above {TOLERANCE}")
    if clip_BT3HW.shape[1] > SINK + WINDOW and float((ours - under_mask).abs().max()) < TOLERANCE:
        raise AssertionError("a window changes nothing: attention is too uniform for the check to mean anything")
    return differences


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timed_ms(step: Step, clock: Callable[[], float]) -> float:
    start = clock()
    step()
    return 1e3 * (clock() - start)


def measure(
    cases: list[tuple[str, int, dict[str, Step]]], repeats: int, recompute_repeats: int, clock: Callable[[], float]
) -> list[dict]:
    """Rows of median milliseconds. Repeats of the live variants are interleaved, then recomputing has its turn."""
    rows = []
    for chosen, count in ((("ours", "concat", "window8"), repeats), (("recompute",), recompute_repeats)):
        for dtype, frame, steps in cases:
            times: dict[str, list[float]] = {name: [] for name in chosen}
            for repeat in range(count + 1):
                for name in chosen if repeat or count > 2 else ():  # the first round of many warms up
                    times[name].append(timed_ms(steps[name], clock))
            for name, values in times.items():
                if count:
                    kept = values[1:] if count > 2 else values
                    rows.append({"variant": name, "dtype": dtype, "frame": frame, "ms_p50": round(median(kept), 2)})
    return rows


def build(name: str, dtype: torch.dtype) -> Backbone:
    """A backbone of the preset with random weights, sharpened so that attention is far from uniform."""
    torch.manual_seed(0)
    backbone = build_model(preset(name)).backbone.eval()
    for block in blocks_of(backbone):
        block.attn.qkv.weight.data.mul_(5)
    return backbone.to(dtype)


def table(rows: list[dict]) -> str:
    """The rows as text: one line a dtype and frame."""
    by_case: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        by_case.setdefault((row["dtype"], row["frame"]), {})[row["variant"]] = row["ms_p50"]
    lines = [f"{'ms':9}{'frame':>6}{'ours':>9}{'window8':>9}{'concat':>9}{'recompute':>11}"]
    for (dtype, frame), ms in by_case.items():
        again = ms.get("recompute", float("nan"))
        lines.append(
            f"{dtype:9}{frame:6}{ms['ours']:9.1f}{ms['window8']:9.1f}{ms['concat']:9.1f}{again:11.1f}   "
            f"{ms['concat'] / ms['ours']:.2f}x over concat, {again / ms['ours']:.1f}x over recompute; "
            f"window8 {ms['concat'] / ms['window8']:.2f}x over concat"
        )
    return "\n".join(lines)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--size", type=int, default=224, help="side of the square image, pixels")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 40], help="frames to time, counted from 1")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="cpu: processor time, which other work on the machine hardly touches; use it with --threads 1",
    )
    parser.add_argument("--prepare-threads", type=int, help="of everything before the timing; as --threads")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--recompute-repeats", type=int, default=2, help="0 leaves recomputing untimed")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args()
    torch.set_num_threads(options.prepare_threads or options.threads)
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(1, max(options.frames), 3, options.size, options.size, generator=generator)
    cases: list[tuple[str, int, dict[str, Step]]] = []
    for dtype in options.dtypes:
        backbone, typed = build(options.preset, getattr(torch, dtype)), clip.to(getattr(torch, dtype))
        for frame, steps in prepared(backbone, typed, options.frames).items():
            if dtype == "float32":
                differences = verify(backbone, typed[:, :frame], steps)
                listed = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
                print(f"frame {frame}: largest differences {listed}", flush=True)
            cases.append((dtype, frame, steps))

    print("equal; timing", flush=True)
    torch.set_num_threads(options.threads)
    rows = measure(cases, options.repeats, options.recompute_repeats, CLOCKS[options.clock])
    print(table(rows))
    if options.json:
        known = {
            "clock": options.clock,
            "preset": options.preset,
            "image_px": [options.size, options.size],
            "part": "backbone",
            "window": WINDOW,
            "sink": SINK,
            "repeats": {"recompute": options.recompute_repeats, "others": options.repeats},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts("cpu", options.threads) | known | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
