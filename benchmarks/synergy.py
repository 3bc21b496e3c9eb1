"""Do the objectives help each other? Runs of equal length with each objective alone and all together, then every probe.

    python -m benchmarks.synergy --minutes 30 --out runs/synergy --json benchmarks/results/synergy.json

Each run starts from the same random weights and takes the same time on the same machine, one after the other; a run
that was interrupted goes on. The probes see the frozen backbone alone, so that the run with geometry heads has no other
advantage than its features; the frozen random backbone stands beside them.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from omnistream_core.bench.machine import facts
from omnistream_core.config import StreamConfig
from omnistream_core.evaluation.world import WorldEvaluation, evaluate_world
from omnistream_core.model import OmniStreamModel
from omnistream_core.pretraining.config import TrainConfig
from omnistream_core.pretraining.export import export_checkpoint
from omnistream_core.pretraining.trainer import train
from training import recipes
from training.pretrain import RECIPES, texts

ALL = "all"
LOWER_IS_BETTER = ("probe_abs_rel", "probe_ate_ratio", "normals_deg")
HIGHER_IS_BETTER = ("segmentation_miou", "knn_top1", "motion_order", "jf", "qa_accuracy", "qa_mra")


def run(config: TrainConfig, folder: Path) -> Path:
    """Train, or go on, and return the folder of the checkpoint."""
    train(config, folder, texts(config))
    export_checkpoint(config, folder, folder / "checkpoint")
    return folder / "checkpoint"


def probe(checkpoint: Path, clips: int, *, compared: bool) -> dict[str, Any]:
    """Every probe of the frozen backbone, geometry heads left aside; kept beside the checkpoint."""
    kept = checkpoint.with_name(f"probes_{clips}.json")
    if not kept.exists():
        model = OmniStreamModel.from_pretrained(checkpoint)
        model.heads, model.config = None, replace(model.config, heads=None)
        whole = WorldEvaluation(compared=compared)
        judged = whole.scaled(clips / whole.judge_clips)
        kept.write_text(json.dumps(evaluate_world(model, StreamConfig(), judged)))
    return dict(json.loads(kept.read_text()))


def verdicts(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each probe: the best single objective, and whether all together are at least as good."""
    told: dict[str, dict[str, Any]] = {}
    for name in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
        alone = {run: values[name] for run, values in figures.items() if run != ALL and name in values}
        if not alone or name not in figures[ALL]:
            continue
        best = (min if name in LOWER_IS_BETTER else max)(alone, key=lambda run: alone[run])
        together = figures[ALL][name]
        better = together <= alone[best] if name in LOWER_IS_BETTER else together >= alone[best]
        told[name] = {"best_alone": best, "alone": alone[best], "together": together, "holds": bool(better)}
    return told


def markdown(figures: dict[str, dict[str, Any]], told: dict[str, dict[str, Any]]) -> str:
    """A row for each probe, a column for each run, the random backbone last."""
    lines = [
        f"| probe | {' | '.join(figures)} | random | together at least as good |",
        "|---" * (len(figures) + 3) + "|",
    ]
    for name, row in told.items():
        values = [*(found[name] for found in figures.values()), figures[ALL][f"random.{name}"]]
        holds = "yes" if row["holds"] else "no"
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} | {holds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny", choices=sorted(RECIPES))
    parser.add_argument("--minutes", type=float, default=30.0, help="of each run")
    parser.add_argument("--out", type=Path, default=Path("runs/synergy"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--textures", help="packed photographs, from training/pack_textures.py")
    parser.add_argument("--clips", type=int, default=64, help="held-out clips that are judged; twice as many to fit on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    whole = RECIPES[options.recipe](options.minutes, textures=options.textures)
    whole = replace(whole, device=options.device)
    runs = {objective: recipes.only(whole, objective) for objective in recipes.OBJECTIVES} | {ALL: whole}
    checkpoints = {name: run(config, options.out / name) for name, config in runs.items()}
    figures = {name: probe(folder, options.clips, compared=name == ALL) for name, folder in checkpoints.items()}
    told = verdicts(figures)
    print(markdown(figures, told))
    if options.json:
        task = {"recipe": options.recipe, "minutes": options.minutes, "clips": options.clips}
        known = facts(options.device, torch.get_num_threads()) | task
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(known | {"figures": figures, "verdicts": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
