"""Train `omnistream-tiny` on the procedural world with the geometry losses; resumable at any moment.

    python training/pretrain_tiny.py --out runs/tiny --minutes 95
    python training/pretrain_tiny.py --out runs/tiny-long --start runs/tiny/state.safetensors --minutes 8
    python training/pretrain_tiny.py --out runs/tiny-long --export omnistream_core/checkpoints/omnistream-tiny

On Linux, huge pages make a step up to twice as fast, since the memory of a step is taken anew each time:
LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF=thp:always
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch

from omnistream_core.config import preset
from omnistream_core.model import build_model
from omnistream_core.pretraining.objectives import GeometryWeights
from omnistream_core.pretraining.state import load_state
from omnistream_core.pretraining.trainer import Stage, TrainConfig, train


def recipe(minutes: float, device: str = "cpu") -> TrainConfig:
    """Short clips first, where most of what depth needs is learned; then longer ones, for motion and memory."""
    return TrainConfig(
        model=preset("tiny"),
        minutes=minutes,
        device=device,
        stages=(
            Stage(until=0.5, clips=16, frames=4),
            Stage(until=0.82, clips=8, frames=8),
            Stage(until=1.0, clips=4, frames=16),
        ),
    )


def longer_clips(minutes: float, start: str, device: str = "cpu") -> TrainConfig:
    """A second run on top of the first: clips as long as the memory is deep, and more weight on motion."""
    return replace(
        recipe(minutes, device),
        start=start,
        stages=(Stage(until=1.0, clips=4, frames=16),),
        weights=GeometryWeights(translation=0.0, translation_squared=3.0),
        lr=5e-4,
        warmup_steps=20,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="state, log and checkpoint go here")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the run, earlier starts included")
    parser.add_argument("--start", type=Path, help="state of a finished run: go on from it with longer clips")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda where there is one")
    parser.add_argument(
        "--export", type=Path, help="do not train: write the newest state there as a bfloat16 checkpoint"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = recipe(arguments.minutes, arguments.device)
    if arguments.start is not None:
        config = longer_clips(arguments.minutes, str(arguments.start), arguments.device)
    if arguments.export is None:
        train(config, arguments.out)
        return
    model = build_model(config.model)
    facts = load_state(arguments.out / "state.safetensors", model, [])
    model.save_pretrained(arguments.export, dtype=torch.bfloat16)
    logging.info("%s: step %d, %d frames", arguments.export, facts["step"], facts["frames"])


if __name__ == "__main__":
    main()
