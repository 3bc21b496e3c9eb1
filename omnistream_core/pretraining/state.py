"""Training state on disk: safetensors and JSON, nothing pickled. A killed run finds the last whole state."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_state(
    path: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], facts: dict[str, Any]
) -> None:
    """Write weights, optimiser moments and ``facts`` (JSON values) to one file, which appears whole or not at all."""
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    for o, optimizer in enumerate(optimizers):
        for p, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{o}.{p}.{k}": torch.as_tensor(v).contiguous() for k, v in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"facts": json.dumps(facts)})
    os.replace(partial, path)


def load_state(path: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """The inverse of ``save_state``, into an existing model and its optimisers; returns the facts."""
    from safetensors import safe_open

    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for o, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{o}."):
                _, _, parameter, name = key.split(".")
                state.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return facts
