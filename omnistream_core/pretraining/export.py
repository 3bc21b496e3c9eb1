"""From the state of a run to a checkpoint that `from_pretrained` reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from omnistream_core.errors import CheckpointError
from omnistream_core.heads.language import LANGUAGE_FOLDER
from omnistream_core.pretraining.config import ParallelConfig, TrainConfig
from omnistream_core.pretraining.learner import Learner
from omnistream_core.pretraining.state import load_weights, newest_state
from omnistream_core.pretraining.words import run_tokenizer


def export_checkpoint(
    config: TrainConfig,
    run: Path,
    checkpoint: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int | None = None,
) -> dict[str, Any]:
    """Write the student of the newest state in ``run``, with its language head where it has one; returns the facts.

    Raises:
        CheckpointError: a folder without a state.
    """
    state = newest_state(run)
    if state is None:
        raise CheckpointError(f"{run}: there is no state of a training run")
    plain = replace(config, device="cpu", start=None, parallel=ParallelConfig())
    learner = Learner(plain, run_tokenizer(plain, run, ()))
    facts = load_weights(state, learner)
    learner.model.save_pretrained(checkpoint, dtype=dtype, shard_bytes=shard_bytes)
    if learner.language is not None:
        learner.language.save_pretrained(checkpoint / LANGUAGE_FOLDER, dtype=dtype)
    return facts
