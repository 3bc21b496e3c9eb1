"""Run every real recording below a folder through a checkpoint, to the end, and say what came of it.

    python benchmarks/real_recordings.py --root ../shared/realdata --out out/real --json
    benchmarks/results/real_recordings.json

Bags, videos and image folders are found by their names; one row a recording: frames, skipped and repaired ones, ms a
frame, errors where the recording carries truth. Pictures are left in ``--out``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from omnistream_core.config import StreamConfig
from omnistream_core.errors import OmniStreamError
from omnistream_core.model import OmniStreamModel
from omnistream_core.replay import ReplayConfig, replay
from omnistream_core.session import StreamSession
from omnistream_core.sources import open_source

KEYS = ("frames", "skipped", "repaired", "ms_per_frame_p50", "abs_rel", "abs_rel_constant", "ate_m", "ate_origin_m")


def recordings(root: Path) -> list[Path]:
    """Every bag, video and image folder with poses below ``root``."""
    files = [p for suffix in ("bag", "mcap", "db3", "mp4") for p in root.rglob(f"*.{suffix}")]
    folders = [p.parent for p in root.rglob("intrinsics.json") if (p.parent / "rgb").is_dir()]
    return sorted([*files, *folders])


def run(path: Path, root: Path, model: OmniStreamModel, out: Path, outputs: tuple[str, ...]) -> dict[str, Any]:
    """One row of the table; an error is part of it."""
    name = str(path.relative_to(root))
    folder = out / name.replace("/", "_").replace(".", "_")
    try:
        with open_source(path) as source:
            facts = replay(source, StreamSession(model, StreamConfig()), folder, ReplayConfig(outputs=outputs))
    except OmniStreamError as error:
        return {"recording": name, "complete": False, "error": str(error)}
    return {"recording": name, "complete": facts["complete"]} | {k: facts[k] for k in KEYS if k in facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("../shared/realdata"))
    parser.add_argument("--out", type=Path, default=Path("out/real"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", default="omnistream-tiny")
    parser.add_argument("--only", default="summary,trajectory,points", help="outputs to write")
    arguments = parser.parse_args()
    model = OmniStreamModel.from_pretrained(arguments.model)
    rows = []
    for path in recordings(arguments.root):
        rows.append(run(path, arguments.root, model, arguments.out, tuple(arguments.only.split(","))))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"checkpoint": arguments.model, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
