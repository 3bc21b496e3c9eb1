"""Train `omnistream-tiny` on the procedural world with the geometry losses; resumable at any moment.

    python training/pretrain_tiny.py --out runs/tiny --minutes 110
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from omnistream_core.config import preset
from omnistream_core.pretraining.trainer import Stage, TrainConfig, train


def recipe(minutes: float) -> TrainConfig:
    """Short clips first, where most of what depth needs is learned; then longer ones, for motion and memory."""
    return TrainConfig(
        model=preset("tiny"),
        minutes=minutes,
        stages=(
            Stage(until=0.5, clips=16, frames=4),
            Stage(until=0.8, clips=8, frames=8),
            Stage(until=1.0, clips=4, frames=16),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="state, log and checkpoint go here")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the run, earlier starts included")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    model = train(recipe(arguments.minutes), arguments.out)
    model.save_pretrained(arguments.out / "checkpoint")


if __name__ == "__main__":
    main()
