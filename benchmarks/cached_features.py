"""Features of a dataset, cached once for several runs, and what that took."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lerobot_policy_omnistream.encoder import Encoder
from lerobot_policy_omnistream.feature_cache import build_feature_cache, dataset_hash, open_blocks, write_whole


def short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]


def cached_features(root: Path, encoder: Encoder, cameras: Sequence[str], folder: Path) -> tuple[Path, float]:
    """The feature cache of a dataset in ``folder``, made where it is missing, and the processor minutes that it took,
    over all runs if it was stopped."""
    out = folder / f"features_{short_hash([encoder.key(), dataset_hash(root)])}"
    cost = out.with_suffix(".json")
    spent_s = json.loads(cost.read_text())["processor_s"] if cost.exists() else 0.0
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        before_s = spent_s - time.process_time()

        def show(done: int) -> None:
            write_whole(cost, json.dumps({"processor_s": before_s + time.process_time()}))

        build_feature_cache(open_blocks("local/dataset", root, cameras), encoder, out, cameras=cameras, show=show)
        spent_s = json.loads(cost.read_text())["processor_s"]
    return out, spent_s / 60
