"""The two teachers of self-supervision: a moving average of the student, and an earlier state of it, kept still."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def frozen_copy(module: AnyModule) -> AnyModule:
    """A copy that no gradient reaches."""
    return copy.deepcopy(module).eval().requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * student, parameter by parameter."""
    ours = [p.detach() for p in teacher.parameters()]
    theirs = [p.detach() for p in student.parameters()]
    torch._foreach_lerp_(ours, theirs, 1 - momentum)


def momentum_at(progress: float, start: float) -> float:
    """From ``start`` to 1 over the run, along a cosine (Grill et al. 2020)."""
    return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * progress))
