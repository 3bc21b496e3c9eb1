"""Depth against the length of the stream, for each way of remembering: the paper's length test on the procedural world.

    python -m benchmarks.memory_quality --json benchmarks/results/memory_quality.json

Held-out clips of 512 frames are streamed through the bundled checkpoint, which was trained on 16; at each length,
AbsRel of the newest 16 frames, one scale for those of a clip, mean over clips.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from omnistream_core.bench.machine import facts
from omnistream_core.config import StreamConfig
from omnistream_core.evaluation.geometry import clip_frames
from omnistream_core.evaluation.metrics import depth_errors
from omnistream_core.model import OmniStreamModel
from omnistream_core.pretraining.world import HELD_OUT_SEED, ClipBatch, WorldConfig, render_clips
from omnistream_core.session import StreamSession

NEWEST = 16
WAYS = {
    "window 16 + 1": StreamConfig(),
    "window 16 + 1, bfloat16": StreamConfig(dtype="bfloat16"),
    "window 16 + 1, memory in bfloat16": StreamConfig(cache_dtype="bfloat16"),
    "window 16 + 1, memory in int8": StreamConfig(cache_dtype="int8"),
    "window 16 + 1, memory in float8": StreamConfig(cache_dtype="float8_e4m3fn"),
    "window 8 + 1": StreamConfig(window=8),
    "window 8 + 1, 8 pools of 4": StreamConfig(window=8, older=8, older_every=4),
    "window 8 + 1, 8 of every 4th": StreamConfig(window=8, older=8, older_every=4, older_mean=False),
    "everything": StreamConfig(window=None, block_frames=128),
}


def errors_at(
    model: OmniStreamModel, stream: StreamConfig, clips: ClipBatch, lengths: list[int]
) -> tuple[dict[int, float], float]:
    """AbsRel of the newest frames at each length, and the megabytes that the memory holds at the end."""
    count = len(clips.images_BT3HW)
    session = StreamSession(model, stream, streams=count)
    predicted: list[list[np.ndarray]] = [[] for _ in range(count)]
    for frames in zip(*(clip_frames(clips, b) for b in range(count)), strict=True):
        for b, prediction in session.step_many(dict(enumerate(frames))).items():
            predicted[b].append(prediction.depth_m_HW)
    truth_BTHW = clips.depth_m_BTHW.numpy()
    errors = {}
    for length in lengths:
        newest = slice(length - NEWEST, length)
        each = [
            depth_errors(np.stack(predicted[b][newest]).ravel(), truth_BTHW[b, newest].ravel())["abs_rel"]
            for b in range(count)
        ]
        errors[length] = float(np.mean(each))
    return errors, session.stats.cache_bytes / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="omnistream-tiny")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    world = replace(WorldConfig(), frames=max(options.lengths))
    clips = render_clips(range(HELD_OUT_SEED, HELD_OUT_SEED + options.clips), world)
    rows = []
    for name, stream in WAYS.items():
        errors, megabytes = errors_at(OmniStreamModel.from_pretrained(options.model), stream, clips, options.lengths)
        rows.append({"memory": name, "mb": round(megabytes / options.clips, 2), "abs_rel": errors})
        print(f"{name:36}{rows[-1]['mb']:8.2f} MB", *(f"{n}: {e:.4f}" for n, e in errors.items()), flush=True)
    if options.json:
        known = {"model": options.model, "clips": options.clips, "newest_frames": NEWEST, "rows": rows}
        options.json.write_text(json.dumps(facts("cpu", options.threads) | known, indent=1) + "\n")


if __name__ == "__main__":
    main()
