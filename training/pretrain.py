"""Pre-train a backbone with its heads; resumable at any moment: give the same command again.

    python -m training.pretrain tiny --out runs/tiny --minutes 30
    python -m training.pretrain tiny --only geometry --out runs/tiny-geometry --minutes 30
    python -m training.pretrain small --out runs/small --start runs/tiny/checkpoint --minutes 600
    torchrun --nproc-per-node 8 -m training.pretrain large --out runs/large --start DINOV3_FOLDER
    python -m training.pretrain tiny --only geometry --freeze-backbone --start FOLDER --out runs/heads --minutes 20
    python -m training.pretrain tiny --out runs/tiny --export runs/tiny/checkpoint

On Linux, huge pages make a step on a CPU up to twice as fast, since the memory of a step is taken anew each time:
LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF=thp:always
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from omnistream_core.config import StreamConfig
from omnistream_core.errors import ConfigError
from omnistream_core.evaluation.world import WorldEvaluation, evaluate_world
from omnistream_core.model import OmniStreamModel
from omnistream_core.pretraining.config import TrainConfig
from omnistream_core.pretraining.data import WorldPool
from omnistream_core.pretraining.export import export_checkpoint
from omnistream_core.pretraining.trainer import Run, train
from training import recipes

RECIPES: dict[str, Callable[..., TrainConfig]] = {
    **{"tiny": recipes.tiny, "small": recipes.small},
    **{"small-cpu": recipes.small_cpu, "large": recipes.large, "large-512": recipes.large_512},
}
MILESTONE = WorldEvaluation(compared=False).quick()  # omnistream eval world --quick --no-compare
TOKENIZER_CLIPS = 512  # whose words the small decoder's tokenizer is made from


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = configure(arguments)
    if arguments.export is not None:
        shard_bytes = None if arguments.shard_mb is None else arguments.shard_mb * 1_000_000
        facts = export_checkpoint(config, arguments.out, arguments.export, shard_bytes=shard_bytes)
        logging.info("%s: step %d, %d frames", arguments.export, facts["step"], facts["frames"])
        return
    if arguments.milestone_minutes is not None:
        train_by_milestones(config, arguments.out, 60 * arguments.milestone_minutes)
        return
    pause_after_s = None if arguments.pause_after is None else 60 * arguments.pause_after
    train(config, arguments.out, texts(config), pause_after_s=pause_after_s)


def train_by_milestones(config: TrainConfig, folder: Path, every_s: float) -> None:
    """Train to the end, and at every milestone judge the frozen backbone: ``world-<step>.json`` in ``folder``."""
    if "RANK" in os.environ:
        raise ConfigError("milestones are for one process; evaluate what torchrun trains with omnistream eval world")
    run = Run(config, folder, texts(config))
    done = False
    while not done:
        run.go_on(every_s)
        done = run.progress >= 1.0
        export_checkpoint(config, folder, folder / "checkpoint")
        figures = evaluate_world(OmniStreamModel.from_pretrained(folder / "checkpoint"), StreamConfig(), MILESTONE)
        (folder / f"world-{run.clock.step:08d}.json").write_text(json.dumps(figures, indent=1) + "\n")
        shown = ("abs_rel", "ate_ratio", "knn_top1", "motion_order", "jf")
        told = ", ".join(f"{name} {figures[name]:.3f}" for name in shown if name in figures)
        logging.info("milestone at step %d: %s", run.clock.step, told)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="state, log and pictures go here")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="length by the clock, earlier starts included")
    length.add_argument("--steps", type=int, help="length in updates; the same every time")
    parser.add_argument("--pause-after", type=float, help="minutes after which this start saves and ends")
    parser.add_argument("--milestone-minutes", type=float, help="probe the frozen backbone after every so many minutes")
    parser.add_argument("--only", nargs="+", choices=recipes.OBJECTIVES, help="these objectives alone")
    parser.add_argument("--start", help="checkpoint folder whose weights the run begins with")
    parser.add_argument("--reset-confidence", action="store_true", help="revives one that sank to its floor")
    parser.add_argument("--freeze-backbone", action="store_true", help="train the heads alone")
    parser.add_argument("--textures", help="packed photographs, from training/pack_textures.py")
    parser.add_argument("--shards", type=int, help="of the data: a multiple of the processes that torchrun starts")
    parser.add_argument("--recordings", help="folder of shards, from training/make_shards.py")
    parser.add_argument("--recordings-share", type=float, default=0.3, help="of the clips, where recordings are given")
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument("--sharding", choices=("none", "ddp", "fsdp2"), help="under torchrun")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument(
        "--export", type=Path, help="do not train: write the newest state there as a bfloat16 checkpoint"
    )
    parser.add_argument("--shard-mb", type=int, help="largest file of an export, megabytes; one file without it")
    return parser.parse_args()


def configure(arguments: argparse.Namespace) -> TrainConfig:
    """The recipe with what the command line changes."""
    config = RECIPES[arguments.recipe](textures=arguments.textures)
    if arguments.only is not None:
        config = recipes.only(config, *arguments.only)
    flags = {name: getattr(arguments, name) for name in ("reset_confidence", "freeze_backbone")}
    config = replace(config, **flags)
    if arguments.minutes is not None or arguments.steps is not None:
        config = replace(config, minutes=arguments.minutes, steps=arguments.steps)
    if arguments.recordings is not None:
        data = replace(config.data, recordings=arguments.recordings, recordings_share=arguments.recordings_share)
        config = replace(config, data=data)
    if arguments.shards is not None:
        config = replace(config, data=replace(config.data, shards=arguments.shards))
    if arguments.sharding is not None:
        config = replace(config, parallel=replace(config.parallel, sharding=arguments.sharding))
    changes = {name: getattr(arguments, name) for name in ("start", "device", "lr")}
    return replace(config, **{name: value for name, value in changes.items() if value is not None})


def texts(config: TrainConfig) -> Iterator[str]:
    """Captions, questions and answers of the first clips; nothing where no task needs words."""
    if "text" not in config.kinds:
        return iter(())
    return islice(_world_texts(config), 20_000)


def _world_texts(config: TrainConfig) -> Iterator[str]:
    small = replace(config.data.world, height_px=48, width_px=64, supersample=1, shadows=False)
    pool = WorldPool(
        replace(config.data, world=small), shard=0, seed=config.seed, device="cpu", compile=False, words=True
    )
    for number in range(TOKENIZER_CLIPS // config.data.chunk_clips):
        for description in pool.chunk(number, frames=8).descriptions:
            yield description.caption
            for question in description.questions:
                yield question.prompt
                yield question.answer


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
