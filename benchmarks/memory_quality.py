"""Quality against the length of the stream, for each way of remembering and each type in which it is kept.

    python -m benchmarks.memory_quality --model omnistream-tiny --json benchmarks/results/memory_quality.json

Held-out clips of the procedural world are streamed to their end; at each length, depth (AbsRel and share within 25 %,
one scale for those of a clip) of the newest 16 frames, and ATE of the path so far (every 4th frame, Sim(3)-aligned),
means over clips. Beside each figure in fewer bits stands its change against the same memory in float32. A cell (policy
and types) that the file holds already, for these very weights, clips and lengths, is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from omnistream_core.bench.machine import facts
from omnistream_core.checkpoint import weights_hash
from omnistream_core.config import StreamConfig
from omnistream_core.evaluation.geometry import clip_frames
from omnistream_core.evaluation.metrics import depth_errors, trajectory_errors
from omnistream_core.model import OmniStreamModel
from omnistream_core.pretraining.world import HELD_OUT_SEED, ClipBatch, WorldConfig, render_clips
from omnistream_core.session import StreamSession
from omnistream_core.types import Prediction

NEWEST, PATH_EVERY = 16, 4
POLICIES = {
    "window 16 + 1": StreamConfig(),
    "window 8 + 1": StreamConfig(window=8),
    "window 8 + 1, 8 pools of 4": StreamConfig(window=8, older=8, older_every=4),
    "window 8 + 1, 8 of every 4th": StreamConfig(window=8, older=8, older_every=4, older_mean=False),
    "everything": StreamConfig(window=None, block_frames=128),
}
EXACT = "float32"
TYPES: dict[str, dict[str, Any]] = {
    EXACT: {},
    "memory in bfloat16": {"cache_dtype": "bfloat16"},
    "memory in int8": {"cache_dtype": "int8"},
    "memory in float8": {"cache_dtype": "float8_e4m3fn"},
    "weights in int8": {"weight_dtype": "int8"},
    "all in bfloat16": {"dtype": "bfloat16"},
}
MEASURES = ("abs_rel", "delta_1.25", "ate_m")
ALLOWED = {"memory in bfloat16": 0.01, "memory in int8": 0.02, "memory in float8": 0.02}  # what we claim, as a share


def cell(model: OmniStreamModel, stream: StreamConfig, clips: ClipBatch, lengths: Sequence[int]) -> dict[str, Any]:
    """Figures at each length, size of the memory at the end, seconds."""
    start, count = time.perf_counter(), len(clips.images_BT3HW)
    session = StreamSession(model, stream, streams=count)
    predicted: list[dict[int, Prediction]] = [{} for _ in range(count)]
    for t, frames in enumerate(zip(*(clip_frames(clips, b) for b in range(count)), strict=True)):
        if t % PATH_EVERY and not any(length - NEWEST <= t < length for length in lengths):
            session.encode_many(dict(enumerate(frames)))  # remembered; its geometry is not asked for
            continue
        for b, prediction in session.step_many(dict(enumerate(frames))).items():
            predicted[b][t] = prediction
    return {
        "mb_a_stream": session.stats.cache_bytes / count / 2**20,
        "seconds": time.perf_counter() - start,
        "engine": session.engine,
        "at": {str(length): means_at(length, predicted, clips) for length in lengths},
    }


def means_at(length: int, predicted: list[dict[int, Prediction]], clips: ClipBatch) -> dict[str, float]:
    """Depth of the newest frames and the path so far, means over clips."""
    figures = []
    newest, path = range(length - NEWEST, length), range(0, length, PATH_EVERY)
    for b, predictions in enumerate(predicted):
        depth_THW = np.stack([predictions[t].depth_m_HW for t in newest])
        true_THW = clips.depth_m_BTHW[b, newest].numpy()
        known = np.isfinite(true_THW) & (true_THW > 0)
        path_T44 = np.stack([predictions[t].world_from_camera_44 for t in path])
        truth_T44 = clips.world_from_camera_BT44[b, path].numpy()
        figures.append(depth_errors(depth_THW[known], true_THW[known]) | trajectory_errors(path_T44, truth_T44))
    return {name: float(np.mean([f[name] for f in figures])) for name in MEASURES}


def changes(now: dict[str, Any], exact: dict[str, Any]) -> dict[str, float]:
    """Largest relative change of each measure over the lengths, as a share of the float32 figure; worse is positive."""
    worse = {"delta_1.25": -1}
    return {
        name: max(
            (worse.get(name, 1) * (at[name] / exact["at"][length][name] - 1) for length, at in now["at"].items()),
            key=abs,
        )
        for name in MEASURES
    }


def verdicts(cells: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The changes of each cell in fewer bits and, where we claim a bound, whether it holds, better or worse."""
    out: dict[str, dict[str, Any]] = {}
    for key, found in cells.items():
        policy, kind = key.split(" | ")
        exact = cells.get(f"{policy} | {EXACT}")
        if kind == EXACT or exact is None:
            continue
        out[key] = {"largest_change": changes(found, exact)}
        if kind in ALLOWED:
            out[key]["holds"] = all(abs(change) < ALLOWED[kind] for change in out[key]["largest_change"].values())
    return out


def table(cells: dict[str, dict[str, Any]], lengths: Sequence[int]) -> Table:
    """AbsRel at each length; the largest changes of all measures beside."""
    columns = ("memory", "types", "MB", *(f"AbsRel at {n}" for n in lengths), *(f"{m} change" for m in MEASURES))
    out, told = Table(*columns), verdicts(cells)
    for key, found in cells.items():
        change = told.get(key, {}).get("largest_change", {})
        out.add_row(
            *(*key.split(" | "), f"{found['mb_a_stream']:.2f}"),
            *(f"{found['at'][str(n)]['abs_rel']:.4f}" for n in lengths),
            *(f"{100 * change[m]:+.2f} %" if m in change else "" for m in MEASURES),
        )
    return out


def known_cells(path: Path | None, task: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the file holds for this very task."""
    if path is None or not path.exists():
        return {}
    before = json.loads(path.read_text())
    return before["cells"] if before["task"] == task else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="omnistream-tiny")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    world = replace(WorldConfig(), frames=max(options.lengths))
    task = {
        "weights": weights_hash(OmniStreamModel.from_pretrained(options.model)),
        "clips": options.clips,
        "lengths": options.lengths,
        "newest_frames": NEWEST,
    }
    cells, console = known_cells(options.json, task), Console()
    wanted = {f"{p} | {t}": replace(POLICIES[p], **TYPES[t]) for p in options.policies for t in options.types}
    missing = [key for key in wanted if key not in cells]
    clips = render_clips(range(HELD_OUT_SEED, HELD_OUT_SEED + options.clips), world)
    known = facts("cpu", options.threads) | {"model": Path(options.model).name, "task": task}
    for key in missing:
        cells[key] = cell(OmniStreamModel.from_pretrained(options.model), wanted[key], clips, options.lengths)
        console.print(f"{key}: {cells[key]['seconds']:.0f} s")
        if options.json:
            options.json.write_text(json.dumps(known | {"verdicts": verdicts(cells), "cells": cells}, indent=1) + "\n")
    console.width = max(console.width, 150)
    console.print(table(cells, options.lengths))


if __name__ == "__main__":
    main()
