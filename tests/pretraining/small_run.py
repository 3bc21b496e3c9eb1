"""A run small enough for a test, and a program that runs it: ``python small_run.py FOLDER [changes as JSON]``."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from omnistream_core.config import BackboneConfig, HeadConfig, ModelConfig, PreprocessConfig
from omnistream_core.pretraining.config import (
    DataConfig,
    MemoryConfig,
    ParallelConfig,
    SelfSupervisionConfig,
    Stage,
    Task,
    TrainConfig,
)
from omnistream_core.pretraining.objectives import SelfSupervisionWeights, koleo_loss
from omnistream_core.pretraining.trainer import train
from omnistream_core.pretraining.views import ViewConfig
from omnistream_core.pretraining.world import WorldConfig

MODEL = ModelConfig(
    backbone=BackboneConfig(width=48, depth=4, heads=2, levels=(0, 1, 2, 3), layer_scale_init=1.0),
    heads=HeadConfig(features=8, ray_features=4, camera_hidden=16),
    preprocess=PreprocessConfig(area_px=32 * 48),
)


def small_run(**changes: object) -> TrainConfig:
    """All image tasks, two lengths of clip, two data shards, gram from the middle on."""
    config = TrainConfig(
        model=MODEL,
        steps=6,
        tasks=(
            Task(kind="geometry", frames=16),
            Task(kind="image", frames=4, weight=0.1),
            Task(kind="video", frames=8, weight=0.1),
        ),
        stages=(Stage(until=0.5, frames=2), Stage(until=1.0, frames=4)),
        data=DataConfig(
            world=WorldConfig(height_px=32, width_px=48, supersample=1), chunk_clips=4, chunks=3, shards=2, reuse=2
        ),
        self_supervision=SelfSupervisionConfig(
            prototypes=32, bottleneck=16, hidden=32, views=ViewConfig(global_hw=(32, 48), local_hw=(16, 32))
        ),
        memory=MemoryConfig(bounded_share=0.5, gap_share=0.5),
        world_compile=False,
        bf16=False,
        log_every=1,
        pictures_every=0,
        warmup_steps=2,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def koleo_of_share(rank: int, store: str, results: str) -> None:
    """What one of two processes says of its half of the clips, and the gradient that reaches them."""
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    share_TBD = torch.randn(3, 8, 5)[:, 4 * rank : 4 * rank + 4].clone().requires_grad_()
    loss = koleo_loss(share_TBD)
    (loss / 2).backward()
    torch.save((loss.detach(), share_TBD.grad), f"{results}-{rank}.pt")
    torch.distributed.destroy_process_group()


def main() -> None:
    changes = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    if "sharding" in changes:
        changes["parallel"] = ParallelConfig(sharding=changes.pop("sharding"))
    if "koleo" in changes:
        weights = SelfSupervisionWeights(koleo=changes.pop("koleo"))
        changes["self_supervision"] = replace(small_run().self_supervision, weights=weights)
    train(small_run(**changes), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
