"""Speed of a training step on the device at hand, as it is and written naively, turn about in one run.

    python -m benchmarks.training --preset tiny --json benchmarks/results/training.json

``ours``   the world rendered in batches with compiled kernels, each clip seen as often as the recipe says; attention
           of a clip without hidden keys (CPU) or with a block mask (CUDA); blocks as the recipe compiles them
``naive``  every clip rendered by itself, when it is needed, without compilation; attention as softmax of a product
           under a dense mask; nothing compiled
``naive float32``  the same without bfloat16; the losses of ours are held against it

Both train the geometry objective on batches of the same size. A step of ours is the mean over all steps that one
rendered chunk serves, its rendering included. Model FLOPs are counted by torch's counter on one step of ours, forward
and backward; the peak is a large matrix product in bfloat16 (with ``--no-bf16`` float32), measured in the same run.

Speed must not change what is learned: both then train from the same weights on the same batches, and the losses must
stay within ``LOSS_BOUND`` of each other, on average over the steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from omnistream_core.bench.machine import facts, product_flops_per_s, seconds
from omnistream_core.config import preset
from omnistream_core.layers import attention
from omnistream_core.pretraining.config import DataConfig, MemoryConfig, ParallelConfig, Stage, Task, TrainConfig
from omnistream_core.pretraining.data import Batch, stacked
from omnistream_core.pretraining.feed import Feed, StageStart, truth_of
from omnistream_core.pretraining.learner import Learner, TaskBatch
from omnistream_core.pretraining.monitor import peak_memory_bytes
from omnistream_core.pretraining.parallel import Processes, parallelise
from omnistream_core.pretraining.trainer import make_optimizers
from omnistream_core.pretraining.world import WorldConfig, render_clips

LOSS_BOUND = 0.05  # mean over steps of |ours - plain| / |plain|, one in bfloat16, the other in float32


def recipe(options: argparse.Namespace) -> TrainConfig:
    """Geometry alone, clips of one length."""
    world = WorldConfig(height_px=options.height, width_px=options.width)
    return TrainConfig(
        model=preset(options.preset),
        steps=10_000,
        tasks=(Task(kind="geometry", frames=options.clips * options.frames),),
        stages=(Stage(until=1.0, frames=options.frames),),
        data=DataConfig(world=world, chunk_clips=2 * options.clips, chunks=4),
        memory=MemoryConfig(bounded_share=0, gap_share=0),
        parallel=ParallelConfig(compile=options.compile),
        device=options.device,
        bf16=options.bf16,
    )


class Ours:
    """The trainer's own feed and learner."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.number = config, 0
        self.learner = Learner(config).train()
        self.module = parallelise(self.learner, config.parallel, Processes())
        self.optimizers = make_optimizers(self.learner, config)
        self.feed = Feed(config, Processes(), None)

    @property
    def steps_per_chunk(self) -> int:
        return (
            self.config.data.chunk_clips
            * self.config.data.reuse
            // self.config.tasks[0].clips(self.config.stages[0].frames)
        )

    def batch(self) -> TaskBatch:
        task, stage = self.config.tasks[0], self.config.stages[0]
        return self.feed.batch(task, self.number, stage, StageStart(), with_gram=False)

    def render(self, number: int) -> None:
        """One chunk of clips, and nothing else."""
        self.feed.worlds[0].chunk(number, frames=self.config.stages[0].frames)

    def __call__(self) -> None:
        update(self.module, self.batch(), self.optimizers, self.config)
        self.number += 1


class Naive:
    """The same step without any of it."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.seed = config, 0
        self.learner = Learner(config).train()
        self.optimizers = make_optimizers(self.learner, config)

    def batch(self) -> TaskBatch:
        frames = self.config.stages[0].frames
        world = replace(self.config.data.world, frames=frames)
        clips = [self._clip(world) for _ in range(self.config.tasks[0].clips(frames))]
        joined = stacked([(clip, 0) for clip in clips]).clips
        return TaskBatch(kind="geometry", images_BT3HW=joined.images_BT3HW, truth=truth_of(joined))

    def _clip(self, world: WorldConfig) -> Batch:
        self.seed += 1
        return Batch(clips=render_clips([self.seed], world, device=self.config.device))

    def __call__(self) -> None:
        self.learn(self.batch())

    def learn(self, batch: TaskBatch) -> float:
        with naive_attention():
            return update(self.learner, batch, self.optimizers, self.config)


def update(
    module: torch.nn.Module, batch: TaskBatch, optimizers: list[torch.optim.Optimizer], config: TrainConfig
) -> float:
    """Forward, backward, one step of the optimisers; the loss."""
    with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.bf16):
        loss: Tensor = sum(module(batch).values())
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def losses(ours: Ours, naive: Naive, steps: int) -> dict[str, list[float]]:
    """Of both, from the same weights on the same batches; neither has taken a step before."""
    naive.learner.load_state_dict(copy.deepcopy(ours.learner.state_dict()))
    curves: dict[str, list[float]] = {"ours": [], "naive": []}
    for _ in range(steps):
        batch = ours.batch()
        curves["ours"].append(update(ours.module, batch, ours.optimizers, ours.config))
        curves["naive"].append(naive.learn(batch))
        ours.number += 1
    return curves


def apart(curves: dict[str, list[float]]) -> float:
    """Mean over steps of the relative difference."""
    pairs = list(zip(curves["ours"], curves["naive"], strict=True))
    return sum(abs(a - b) / abs(b) for a, b in pairs) / len(pairs)


@contextmanager
def naive_attention() -> Any:
    """softmax(q k^T + mask) v over all keys of the clip."""

    def dense(q: Tensor, k: Tensor, v: Tensor, frames: int, *, visible_TT: Tensor | None = None) -> Tensor:
        tokens = q.shape[2] // frames
        causal_TT = torch.ones(frames, frames, dtype=torch.bool).tril() if visible_TT is None else visible_TT
        mask_SS = causal_TT.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1).to(q.device)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask_SS, float("-inf")).softmax(-1)
        return weights.to(v.dtype) @ v

    ours, attention.attend_clip = attention.attend_clip, dense  # type: ignore[assignment]
    try:
        yield
    finally:
        attention.attend_clip = ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action="store_true", help="compile the blocks as well")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loss-steps", type=int, default=12, help="steps over which the losses are compared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = recipe(options)
    ours, naive, exact = Ours(config), Naive(config), Naive(replace(config, bf16=False))
    curves = losses(ours, exact, options.loss_steps)  # warms up as well: compilation, first allocations
    batch = ours.batch()
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        sum(ours.learner(batch).values()).backward()
    ours.learner.zero_grad()
    device, cycle = torch.device(config.device), ours.steps_per_chunk
    steps_s: dict[str, list[float]] = {"ours": [], "naive": [], "naive float32": []}
    world_s = []
    naive()
    for number in range(options.repeats):
        steps_s["naive"].append(seconds(naive, device))
        steps_s["naive float32"].append(seconds(exact, device))
        world_s.append(seconds(partial(ours.render, 1000 + number), device))
        steps_s["ours"].append(sum(seconds(ours, device) for _ in range(cycle)) / cycle)
    frames, dtype = options.clips * options.frames, torch.bfloat16 if options.bf16 else torch.float32
    peak = product_flops_per_s(dtype, device)
    rows = [
        {
            "variant": name,
            "s_per_step_p50": median(values),
            "frames_per_s": frames / median(values),
            "mfu": counter.get_total_flops() / median(values) / peak,
        }
        for name, values in steps_s.items()
    ]
    speedup = median(steps_s["naive"]) / median(steps_s["ours"])
    known = facts(config.device, options.threads) | {
        "dtype": str(dtype).removeprefix("torch."),
        "preset": options.preset,
        "clips": options.clips,
        "frames": options.frames,
        "image_px": [options.height, options.width],
        "peak_tflops": peak / 1e12,
        "step_gflop": counter.get_total_flops() / 1e9,
        "peak_memory_gb": peak_memory_bytes(config.device) / 1e9,
        "speedup": speedup,
        "world_frames_per_s": config.data.chunk_clips * options.frames / median(world_s),
        "losses": curves,
        "losses_apart": apart(curves),
        "loss_bound": LOSS_BOUND,
    }
    for row in rows:
        speed = f"{row['s_per_step_p50']:.3f} s/step  {row['frames_per_s']:.0f} frames/s"
        print(f"{row['variant']:13} {speed}  MFU {row['mfu']:.1%}")
    print(f"the world alone {known['world_frames_per_s']:.0f} frames/s")
    print(f"{speedup:.2f}x; losses {apart(curves):.2%} apart over {options.loss_steps} steps")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(known | {"rows": rows}, indent=1) + "\n")
    if not apart(curves) < LOSS_BOUND:
        sys.exit(f"losses are {apart(curves):.2%} apart, {LOSS_BOUND:.0%} are allowed")


if __name__ == "__main__":
    main()
