"""The batches of a step, put together from the clips of this process's share; a function of the step alone.

Shape letters: B clips, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from omnistream_core.errors import ConfigError
from omnistream_core.heads.language import CAPTION_PROMPT, LanguageHead
from omnistream_core.pretraining.config import MemoryConfig, Stage, Task, TrainConfig
from omnistream_core.pretraining.data import Batch, ShardClips, WorldPool, generator_for, stacked
from omnistream_core.pretraining.data.batch import frames_of
from omnistream_core.pretraining.learner import TaskBatch
from omnistream_core.pretraining.objectives import GeometryTruth
from omnistream_core.pretraining.parallel import Processes
from omnistream_core.pretraining.views import draw_views, joined, make_views
from omnistream_core.pretraining.world import ClipBatch, Description

CAPTION_SHARE = 0.25  # of the text batches; the others are questions


@dataclass(frozen=True, kw_only=True)
class StageStart:
    """Where a stage began: step, and the first chunk of clips of its length."""

    step: int = 0
    chunk: int = 0


class Feed:
    """Clips of this process's data shards, and the batches that tasks make of them."""

    def __init__(self, config: TrainConfig, processes: Processes, language: LanguageHead | None) -> None:
        self.config, self.language = config, language
        share, left = divmod(config.data.shards, processes.count)
        if left:
            raise ConfigError(f"{config.data.shards} data shards for {processes.count} processes: a multiple is needed")
        first = processes.rank * share
        self.shards = range(first, first + share)
        common = {"seed": config.seed, "device": config.device, "compile": config.world_compile}
        words = "text" in config.kinds  # all tasks draw from one pool: rendering is dear
        self.worlds = {
            shard: WorldPool(config.data, shard=shard, words=words, **common)  # type: ignore[arg-type]
            for shard in self.shards
        }
        self.recordings = {
            geometry: ShardClips(config.data.recordings, geometry=geometry)
            for geometry in (True, False)
            if config.data.recordings is not None
        }

    def newest_chunk(self, step: int, stage: Stage, start: StageStart) -> int:
        """The newest chunk that a step may draw from: chunks come as fast as ``reuse`` asks for."""
        clips = sum(task.clips(stage.frames) for task in self.config.tasks) // self.config.data.shards
        return start.chunk + (step - start.step) * clips // (self.config.data.reuse * self.config.data.chunk_clips)

    def batch(self, task: Task, step: int, stage: Stage, start: StageStart, *, with_gram: bool) -> TaskBatch:
        """The batch of ``task`` at ``step``, on the device."""
        per_shard = task.clips(stage.frames) // self.config.data.shards
        draws = [generator_for(self.config.seed, task.kind, step, shard) for shard in self.shards]
        newest = self.newest_chunk(step, stage, start)
        parts = [
            self._clips(task, g, shard, per_shard, stage.frames, start.chunk, newest)
            for g, shard in zip(draws, self.shards, strict=True)
        ]
        batch = stacked([(part, b) for part in parts for b in range(per_shard)])
        if task.kind in ("image", "video"):
            return self._views_batch(task, batch, draws, per_shard, with_gram)
        return self._clip_batch(task, batch, draws, per_shard, generator_for(self.config.seed, "memory", step))

    def _clips(
        self, task: Task, generator: Generator, shard: int, clips: int, frames: int, oldest: int, newest: int
    ) -> Batch:
        recorded = bool(torch.rand((), generator=generator) < self.config.data.recordings_share)
        if recorded and task.kind != "text":
            batch = self.recordings[task.kind == "geometry"].draw(generator, clips, frames=frames)
            batch = replace(batch, clips=batch.clips.mapped(lambda x: x.to(self.config.device)))
        else:
            world, mirror = self.worlds[shard], task.kind != "text"
            batch = world.draw(generator, clips, frames=frames, oldest=oldest, newest=newest, mirror=mirror)
        if task.kind == "image":
            chosen = int(torch.randint(frames, (), generator=generator))
            batch = replace(batch, clips=frames_of(batch.clips, [chosen]))
        return batch

    def _views_batch(
        self, task: Task, batch: Batch, draws: Sequence[Generator], per_shard: int, with_gram: bool
    ) -> TaskBatch:
        views = self.config.self_supervision.views
        patch_px = self.config.model.backbone.patch_px
        draw = joined([draw_views(per_shard, patch_px, views, generator) for generator in draws])
        made = make_views(batch.clips.images_BT3HW, draw, views)
        return TaskBatch(kind=task.kind, views=made, with_gram=with_gram)

    def _clip_batch(
        self, task: Task, batch: Batch, draws: Sequence[Generator], per_shard: int, memory: Generator
    ) -> TaskBatch:
        words = None
        if task.kind == "text" and self.language is not None:
            asked = [
                _asked(batch.descriptions[s * per_shard + b], generator)
                for s, generator in enumerate(draws)
                for b in range(per_shard)
            ]
            prompts, answers = zip(*asked, strict=True)
            words = self.language.tokenize(prompts, answers).to(self.config.device)
        clips = batch.clips
        if task.kind == "geometry":  # words tell of the whole clip
            clips = frames_of(clips, draw_frames(clips.images_BT3HW.shape[1], self.config.memory, memory))
        visible_TT, frame_index_T = draw_memory(clips.images_BT3HW.shape[1], self.config.memory, memory)
        return TaskBatch(
            kind=task.kind,
            images_BT3HW=clips.images_BT3HW,
            visible_TT=visible_TT,
            frame_index_T=frame_index_T,
            truth=truth_of(clips),
            words=words,
        )


def truth_of(clips: ClipBatch) -> GeometryTruth:
    """The geometry that clips carry."""
    return GeometryTruth(
        depth_m_BTHW=clips.depth_m_BTHW,
        world_from_camera_BT44=clips.world_from_camera_BT44,
        intrinsics_B33=clips.intrinsics_B33,
    )


def draw_memory(frames: int, config: MemoryConfig, generator: Generator) -> tuple[Tensor | None, Tensor | None]:
    """Which frame may see which (``visible_TT``), and when each was taken (``frame_index_T``).

    All earlier ones, one after the other (None, None); or the first few, which may lie far back, and a window of recent
    ones.
    """
    bounded, size, sink, away = torch.rand(4, generator=generator).tolist()
    if bounded >= config.bounded_share or frames < 3:
        return None, None
    first = int(sink * 3)
    visible_TT = bounded_visibility(frames, window=2 + int(size * (frames - 2)), sink=first)
    absent = round((1 + config.longest_absence) ** away) - 1 if first else 0
    index_T = torch.arange(frames)
    return visible_TT, index_T + absent * (index_T >= first)


def bounded_visibility(frames: int, *, window: int, sink: int) -> Tensor:
    """(T, T) bool: frame t sees the last ``window`` frames, itself included, and the first ``sink``."""
    query_T1, key_T = torch.arange(frames)[:, None], torch.arange(frames)
    return (key_T <= query_T1) & ((key_T > query_T1 - window) | (key_T < sink))


def draw_frames(frames: int, config: MemoryConfig, generator: Generator) -> list[int]:
    """Frames of a clip that are shown: all, or all but a run of up to a third, never the first."""
    gap, size, place = torch.rand(3, generator=generator).tolist()
    if gap >= config.gap_share or frames < 4:
        return list(range(frames))
    length = 1 + int(size * frames / 3)
    first = 1 + int(place * (frames - length - 1))
    return [t for t in range(frames) if not first <= t < first + length]


def _asked(description: Description, generator: Generator) -> tuple[str, str]:
    """A prompt and its answer: the caption, or one of the questions."""
    caption, choice = torch.rand(2, generator=generator).tolist()
    questions = description.questions
    if caption < CAPTION_SHARE or not questions:
        return CAPTION_PROMPT, description.caption
    question = questions[int(choice * len(questions))]
    return question.prompt, question.answer
