"""Pre-training recipes: functions that return a configuration. A variant replaces the fields it is about."""

from __future__ import annotations

from dataclasses import replace

from omnistream_core.config import ModelConfig, preset
from omnistream_core.heads.language import LanguageConfig
from omnistream_core.pretraining.config import (
    DataConfig,
    ParallelConfig,
    SelfSupervisionConfig,
    Stage,
    Task,
    TrainConfig,
)
from omnistream_core.pretraining.objectives import GeometryWeights
from omnistream_core.pretraining.views import ViewConfig
from omnistream_core.pretraining.world import WorldConfig

OBJECTIVES = ("self-supervision", "geometry", "text")


def tiny(minutes: float = 30.0, *, textures: str | None = None) -> TrainConfig:
    """``omnistream-tiny`` on a CPU: all three objectives, short clips first, longer ones for motion and memory."""
    return TrainConfig(
        model=preset("tiny"),
        minutes=minutes,
        tasks=(
            Task(kind="geometry", frames=64),
            Task(kind="image", frames=8, weight=0.1),
            Task(kind="video", frames=16, weight=0.1),
            Task(kind="text", frames=32),
        ),
        stages=(Stage(until=0.3, frames=4), Stage(until=0.65, frames=8), Stage(until=1.0, frames=16)),
        data=DataConfig(world=WorldConfig(textures=textures)),
        geometry=GeometryWeights(translation=1.0, translation_squared=1.0),
        self_supervision=SelfSupervisionConfig(
            prototypes=2048,
            cls_prototypes=128,
            bottleneck=128,
            hidden=512,
            views=ViewConfig(global_hw=(96, 128), local_hw=(48, 64)),
        ),
        language=LanguageConfig(width=192, depth=3, heads=3, key_value_heads=1, vocabulary=1024),
    )


def small(minutes: float = 600.0, *, device: str = "cuda", textures: str | None = None) -> TrainConfig:
    """``omnistream-small`` on one GPU."""
    return replace(
        tiny(minutes, textures=textures),
        model=preset("small"),
        device=device,
        tasks=(
            Task(kind="geometry", frames=512),
            Task(kind="image", frames=64, weight=0.1),
            Task(kind="video", frames=128, weight=0.1),
            Task(kind="text", frames=256),
        ),
        data=DataConfig(world=WorldConfig(height_px=160, width_px=224, textures=textures), chunk_clips=64, chunks=32),
        self_supervision=SelfSupervisionConfig(
            prototypes=16_384, bottleneck=256, hidden=1024, views=ViewConfig(global_hw=(160, 224), local_hw=(80, 112))
        ),
        language=LanguageConfig(width=384, depth=6, heads=6, key_value_heads=2, vocabulary=4096),
        parallel=ParallelConfig(compile=True),
        lr=1e-3,
        warmup_steps=500,
    )


def small_cpu(minutes: float = 60.0, *, textures: str | None = None) -> TrainConfig:
    """``omnistream-small`` on a CPU at 96x128 px, from a grown ``omnistream-tiny`` (``training/grow.py``): long clips
    soon, smaller steps, self-supervision on images alone."""
    whole = tiny(minutes, textures=textures)
    return replace(
        whole,
        model=replace(preset("small"), preprocess=whole.model.preprocess),
        tasks=tuple(task for task in whole.tasks if task.kind != "video"),
        stages=(Stage(until=0.4, frames=8), Stage(until=1.0, frames=16)),
        lr=7e-4,
        warmup_steps=30,
    )


def large(steps: int = 60_000, *, start: str | None = None, textures: str | None = None) -> TrainConfig:
    """``large`` from DINOv3 weights on 64 GPUs with the paper's schedule: stage 1 at 224 px (60,000 steps), then again
    with ``--start`` at 512 px for 120,000. Adam, peak 1e-4, 4,000 steps of warm-up, cosine, no weight decay."""
    return TrainConfig(
        model=preset("large"),
        steps=steps,
        start=start,
        device="cuda",
        tasks=(
            Task(kind="image", frames=2048, weight=0.1),
            Task(kind="video", frames=1024, weight=0.1),
            Task(kind="geometry", frames=1024),
            Task(kind="text", frames=1024),
        ),
        stages=(Stage(until=1.0, frames=16),),
        data=DataConfig(world=WorldConfig(height_px=224, width_px=224, textures=textures), shards=64),
        self_supervision=SelfSupervisionConfig(views=ViewConfig(global_hw=(224, 224), local_hw=(96, 96))),
        language=LanguageConfig(decoder="Qwen/Qwen3-0.6B"),
        parallel=ParallelConfig(checkpoint_activations=True, compile=True, sharding="fsdp2"),
        optimizer="adam",
        lr=1e-4,
        warmup_steps=4000,
    )


def large_512(steps: int = 120_000, *, start: str | None = None, textures: str | None = None) -> TrainConfig:
    """The paper's second stage of ``large``, at 512 px, from the checkpoint of the first."""
    first = large(steps, start=start, textures=textures)
    return replace(
        first,
        data=replace(first.data, world=replace(first.data.world, height_px=512, width_px=512)),
        self_supervision=replace(first.self_supervision, views=ViewConfig(global_hw=(512, 512), local_hw=(224, 224))),
    )


def only(config: TrainConfig, *objectives: str) -> TrainConfig:
    """The same run, at the same length, with these of ``OBJECTIVES`` alone."""
    tasks = {"self-supervision": ("image", "video"), "geometry": ("geometry",), "text": ("text",)}
    kinds = [kind for objective in objectives for kind in tasks[objective]]
    model = config.model if "geometry" in kinds else without_heads(config.model)
    return replace(config, model=model, tasks=tuple(task for task in config.tasks if task.kind in kinds))


def without_heads(model: ModelConfig) -> ModelConfig:
    """The backbone alone."""
    return replace(model, heads=None)
