"""Clips of the procedural world, each seen several times: a pool that is a function of numbers alone.

Chunk c of shard s is always the same clips. Which chunks a step draws from depends on the step, so a run that starts
again renders them anew and goes on as if nothing had happened.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import Generator

from omnistream_core.errors import ConfigError
from omnistream_core.pretraining.config import DataConfig
from omnistream_core.pretraining.data.batch import Batch, stacked
from omnistream_core.pretraining.data.draws import generator_for
from omnistream_core.pretraining.world import HELD_OUT_SEED, describe_clips, render_scenes, sample_scene

SPAN_FRAMES = 16  # at the world's own rate: the longest time that a clip spans


class WorldPool:
    """The newest chunks of one shard.

    Args:
        words: whether clips come with descriptions.
    """

    def __init__(self, config: DataConfig, *, shard: int, seed: int, device: str, compile: bool, words: bool) -> None:
        self.config, self.shard, self.seed = config, shard, seed
        self.device, self.compile, self.words = device, compile, words
        self._kept: OrderedDict[tuple[int, int], Batch] = OrderedDict()

    def draw(
        self, generator: Generator, clips: int, *, frames: int, oldest: int, newest: int, mirror: bool = True
    ) -> Batch:
        """``clips`` different clips (as far as there are) of ``frames`` frames from chunks ``oldest`` to ``newest``,
        no more than the configured number of chunks back; half of the times mirrored where ``mirror`` allows it: the
        words of a clip know left from right, and a mirrored one comes without them."""
        oldest = max(oldest, newest - self.config.chunks + 1)
        there = (newest - oldest + 1) * self.config.chunk_clips
        drawn = torch.cat([torch.randperm(there, generator=generator) for _ in range(-(-clips // there))])[:clips]
        parts = [
            (self.chunk(oldest + i // self.config.chunk_clips, frames), i % self.config.chunk_clips)
            for i in drawn.tolist()
        ]
        batch = stacked(parts)
        mirrored = bool(torch.rand((), generator=generator) < 0.5) and mirror
        return Batch(clips=batch.clips.mirrored()) if mirrored else batch

    def chunk(self, number: int, frames: int) -> Batch:
        """All clips of a chunk."""
        key = (number, frames)
        if key not in self._kept:
            self._kept[key] = self._render(number, frames)
            while len(self._kept) > self.config.chunks + 1:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _render(self, number: int, frames: int) -> Batch:
        count = self.config.chunk_clips
        first = (number * self.config.shards + self.shard) * count
        if first + count > HELD_OUT_SEED:
            raise ConfigError(f"world seed {first + count} is held out; training uses those below {HELD_OUT_SEED}")
        seeds = range(first, first + count)
        slowest = min(1.0, frames / SPAN_FRAMES)  # short clips reach as far as long ones, in larger steps
        draw = torch.rand((), generator=generator_for(self.seed, "rate", number, self.shard))
        world = replace(self.config.world, frames=frames, rate_hz=self.config.world.rate_hz * slowest ** float(draw))
        scenes = [sample_scene(number, world) for number in seeds]
        clips = render_scenes(scenes, world, device=self.device, compile=self.compile)
        return Batch(clips=clips, descriptions=describe_clips(seeds, scenes, clips) if self.words else ())
