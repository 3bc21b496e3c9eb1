"""Activation checkpointing, compilation and sharding of a learner, in this order; nothing else knows of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omnistream_core.errors import ConfigError
from omnistream_core.layers.block import Block
from omnistream_core.pretraining.config import ParallelConfig
from omnistream_core.pretraining.learner import Learner
from omnistream_core.types import GeometryOutput


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among all that train together."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that logs and writes."""
        return self.rank == 0


def join_processes(device: str) -> Processes:
    """Join the processes that ``torchrun`` started; alone without it."""
    if "RANK" not in os.environ:
        return Processes()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if device.startswith("cuda"):
        torch.cuda.set_device(local_rank)
    return Processes(rank=dist.get_rank(), count=dist.get_world_size(), local_rank=local_rank)


def parallelise(learner: Learner, config: ParallelConfig, processes: Processes) -> nn.Module:
    """The learner as its batches are to be put through it.

    Raises:
        ConfigError: many processes without a way to keep them together, or the reverse.
    """
    if (config.sharding == "none") != (processes.count == 1 and not dist.is_initialized()):
        raise ConfigError(
            f"sharding {config.sharding!r} with {processes.count} processes: torchrun needs ddp or fsdp2, and they it"
        )
    for block in learner.model.backbone.blocks:
        if config.checkpoint_activations:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if config.compile:
            block.compile()
    if config.sharding == "ddp":
        # A round has several tasks, and each trains a part of the parameters.
        return nn.parallel.DistributedDataParallel(learner, find_unused_parameters=True)
    return _sharded(learner) if config.sharding == "fsdp2" else learner


def clip_gradients(learner: nn.Module, largest: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most ``largest``; returns the norm before."""
    norm = nn.utils.clip_grad_norm_([p for p in learner.parameters() if p.requires_grad], largest)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _sharded(learner: Learner) -> nn.Module:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for module in list(learner.modules()):
        if isinstance(module, Block):
            fully_shard(module)
    sharded = fully_shard(learner)
    register_fsdp_forward_method(learner, "predict")
    predict = learner.predict

    def predict_and_let_go(images_BT3HW: Tensor) -> GeometryOutput | None:
        """What lies outside blocks stays gathered until a backward pass, and here there is none."""
        geometry = predict(images_BT3HW)
        sharded.reshard()
        return geometry

    learner.predict = predict_and_let_go  # type: ignore[method-assign]
    return learner
