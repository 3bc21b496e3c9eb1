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
from omnistream_core.evaluation.world import evaluate_world
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


def probe(checkpoint: Path) -> dict[str, Any]:
    """Every probe of the frozen backbone, geometry heads left aside."""
    model = OmniStreamModel.from_pretrained(checkpoint)
    model.heads, model.config = None, replace(model.config, heads=None)
    return evaluate_world(model, StreamConfig())


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny", choices=sorted(RECIPES))
    parser.add_argument("--minutes", type=float, default=30.0, help="of each run")
    parser.add_argument("--out", type=Path, default=Path("runs/synergy"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--textures", help="packed photographs, from training/pack_textures.py")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    whole = RECIPES[options.recipe](options.minutes, textures=options.textures)
    whole = replace(whole, device=options.device)
    runs = {objective: recipes.only(whole, objective) for objective in recipes.OBJECTIVES} | {ALL: whole}
    figures = {name: probe(run(config, options.out / name)) for name, config in runs.items()}
    told = verdicts(figures)
    for name, row in told.items():
        sign = "holds" if row["holds"] else "does not hold"
        print(f"{name:20} alone {row['alone']:.4f} ({row['best_alone']})  together {row['together']:.4f}  {sign}")
    if options.json:
        known = facts(options.device, torch.get_num_threads()) | {"recipe": options.recipe, "minutes": options.minutes}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(known | {"figures": figures, "verdicts": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
