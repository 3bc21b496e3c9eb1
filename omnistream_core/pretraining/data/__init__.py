"""Clips to train on: endless ones from the procedural world, and recorded ones from shards on disk."""

from omnistream_core.pretraining.data.batch import Batch, stacked
from omnistream_core.pretraining.data.draws import generator_for
from omnistream_core.pretraining.data.shards import BadDataError, Ledger, ShardClips, write_shard
from omnistream_core.pretraining.data.world_pool import WorldPool

__all__ = [
    "BadDataError",
    "Batch",
    "Ledger",
    "ShardClips",
    "WorldPool",
    "generator_for",
    "stacked",
    "write_shard",
]
