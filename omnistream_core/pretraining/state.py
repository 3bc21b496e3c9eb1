"""Training state on disk: one folder a save, written by all processes together, which appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

KEPT = 2  # newest states


def save_state(
    folder: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], facts: dict[str, Any]
) -> Path:
    """Write weights, optimiser moments and ``facts`` (JSON values; ``step`` names the state) below ``folder``.

    All processes call it; the state can be read by another number of processes.
    """
    final = folder / f"state-{facts['step']:08d}"
    partial = folder / (final.name + ".partial")
    if _first():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    _together()
    weights, moments = get_state_dict(model, optimizers)
    dcp.save({"model": weights, "optimizers": moments}, checkpoint_id=partial)
    if _first():
        (partial / "facts.json").write_text(json.dumps(facts))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in _states(folder)[:-KEPT]:
            shutil.rmtree(old)
    _together()
    return final


def newest_state(folder: Path) -> Path | None:
    """The last whole state below ``folder``; None where there is none."""
    states = _states(folder)
    return states[-1] if states else None


def load_state(state: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """The inverse of ``save_state``, into an existing model and its optimisers; returns the facts."""
    weights, moments = get_state_dict(model, optimizers)
    dcp.load({"model": weights, "optimizers": moments}, checkpoint_id=state)  # in place
    set_state_dict(model, optimizers, model_state_dict=weights, optim_state_dict=moments)
    return dict(json.loads((state / "facts.json").read_text()))


def load_weights(state: Path, model: torch.nn.Module) -> dict[str, Any]:
    """The weights alone; returns the facts."""
    weights = get_model_state_dict(model)
    dcp.load({"model": weights}, checkpoint_id=state)
    set_model_state_dict(model, weights)
    return dict(json.loads((state / "facts.json").read_text()))


def _states(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("state-*") if (p / "facts.json").exists() and p.suffix != ".partial")


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _together() -> None:
    if dist.is_initialized():
        dist.barrier()
