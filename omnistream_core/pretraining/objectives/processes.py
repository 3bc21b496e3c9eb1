"""Sums over all processes that train together, so that many compute what one would; alone, each is what it is given."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if count() > 1 else 0


def summed(value: Tensor) -> Tensor:
    """Sum over the processes, in place; no gradient."""
    if count() > 1:
        dist.all_reduce(value)
    return value


def largest(value: Tensor) -> Tensor:
    """Maximum over the processes, in place; no gradient."""
    if count() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def mean_of(total: Tensor, number: Tensor) -> Tensor:
    """This process's share of a mean: its ``total`` over the mean ``number`` of a process, so that the average of all
    processes is the mean over all; 0 where nothing is counted anywhere."""
    return total / (summed(number.detach().clone().to(total.dtype)) / count()).clamp(min=1 / count())


def gathered(x_BTD: Tensor) -> Tensor:
    """Rows of all processes one after the other; gradients find their way back."""
    return torch.cat(list(_Gather.apply(x_BTD))) if count() > 1 else x_BTD


class _Gather(torch.autograd.Function):
    """All processes' tensors; each gets back the sum of what all processes' losses say of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(count())]
        dist.all_gather(parts, x.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        both = torch.stack(grads)
        dist.all_reduce(both)
        return both[rank()]
