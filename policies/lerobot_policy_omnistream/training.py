"""Trains any LeRobot policy on a dataset in memory, for so many steps or so much time; lerobot-eval runs the result.

The loop is LeRobot's own (its processors, optimiser, schedule and clipping); what it leaves out is waiting for videos.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from lerobot_policy_omnistream.errors import PolicyError
from lerobot_policy_omnistream.feature_cache import write_whole
from lerobot_policy_omnistream.table import FrameTable

# Steps of the schedule of a run that is limited by time.
SCHEDULE_STEPS = 10_000


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One training run.

    Attributes:
        steps: optimiser steps; None takes as many as fit into ``minutes``.
        minutes: of this process's own processor time (wall-clock time, on an idle machine with one thread).
        batch_size: samples a step.
        seed: of weights and samples.
        episodes: to train on; None takes all.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    seed: int = 0
    episodes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise PolicyError(f"steps is {self.steps} and minutes {self.minutes}; exactly one of them is needed")

    def progress(self, steps: int, seconds: float) -> float:
        """What part of the run is done, 0 ... 1, after so many steps and so much processor time."""
        return min(1.0, steps / self.steps if self.steps else seconds / (60 * self.minutes))


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """How it went. ``samples_per_s`` counts processor time of the loop; ``loss`` is the mean of the last tenth."""

    steps: int
    batch_size: int
    loss: float
    seconds: float
    processor_seconds: float
    samples_per_s: float


def train_policy(
    config: PreTrainedConfig,
    root: str | Path,
    settings: TrainSettings,
    out: Path | None = None,
    show: Callable[[int, float, float], None] = lambda step, progress, loss: None,
) -> tuple[PreTrainedPolicy, Any, Any, TrainReport]:
    """Trains a fresh policy; returns it with its pre- and postprocessor and the report, and saves all to ``out``.

    Raises:
        PolicyError: a dataset or a feature cache that does not fit.
    """
    torch.manual_seed(settings.seed)
    cached = getattr(config, "feature_cache", None)
    policy = make_policy(config, ds_meta=LeRobotDatasetMetadata("local/dataset", root=root))
    table = FrameTable(root, config, episodes=settings.episodes, images=not cached)
    before, after = make_pre_post_processors(config, dataset_stats=table.meta.stats)
    report = _run(policy, before, table, settings, show)
    if out is not None:
        _save(out, policy, before, after, settings, report)
    return policy.eval(), before, after, report


def _run(
    policy: PreTrainedPolicy,
    before: Any,
    table: FrameTable,
    settings: TrainSettings,
    show: Callable[[int, float, float], None],
) -> TrainReport:
    preset = policy.config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        optimizer.param_groups = [group | {"fused": True, "foreach": False} for group in optimizer.param_groups]
    schedule_steps = settings.steps or SCHEDULE_STEPS
    scheduler = _scheduler(policy.config, optimizer, schedule_steps)
    batches, losses = _batches(table, settings), []
    started, processor_started = time.monotonic(), time.process_time()
    progress = 0.0
    policy.train()
    while progress < 1:
        losses.append(_step(policy, optimizer, before(next(batches)), preset.grad_clip_norm))
        progress = settings.progress(len(losses), time.process_time() - processor_started)
        if scheduler is not None:
            scheduler.last_epoch = round(progress * schedule_steps) - 1
            scheduler.step()
        show(len(losses), progress, losses[-1])
    processor_s = time.process_time() - processor_started
    tail = losses[-max(1, len(losses) // 10) :]
    return TrainReport(
        steps=len(losses),
        batch_size=settings.batch_size,
        loss=sum(tail) / len(tail),
        seconds=time.monotonic() - started,
        processor_seconds=processor_s,
        samples_per_s=len(losses) * settings.batch_size / processor_s,
    )


def _step(policy: PreTrainedPolicy, optimizer: Any, batch: dict[str, Any], clip_norm: float) -> float:
    loss, _ = policy.forward(batch)
    loss.backward()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm if clip_norm > 0 else float("inf"))
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _batches(table: FrameTable, settings: TrainSettings) -> Any:
    """Endless batches; every frame comes once an epoch."""
    generator = torch.Generator().manual_seed(settings.seed)
    queue: Tensor = table.frames[:0]
    while True:
        while len(queue) < settings.batch_size:
            queue = torch.cat([queue, table.frames[torch.randperm(len(table.frames), generator=generator)]])
        yield table.batch(queue[: settings.batch_size])
        queue = queue[settings.batch_size :]


def _scheduler(config: PreTrainedConfig, optimizer: Any, steps: int) -> Any:
    preset = config.get_scheduler_preset()
    return None if preset is None else preset.build(optimizer, steps)


def _save(
    out: Path, policy: PreTrainedPolicy, before: Any, after: Any, settings: TrainSettings, report: TrainReport
) -> None:
    """``training.json`` comes last and whole: where it is, the rest is, too."""
    note = out / "training.json"
    note.unlink(missing_ok=True)
    policy.save_pretrained(out)
    before.save_pretrained(out)
    after.save_pretrained(out)
    write_whole(note, json.dumps({"settings": asdict(settings), "report": asdict(report)}, indent=1))


def parse_episodes(text: str | None) -> Sequence[int] | None:
    """``"0-7,9"`` as numbers; None as it is.

    Raises:
        PolicyError: other text, a range without numbers.
    """
    if text is None:
        return None
    episodes: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise PolicyError(f"episodes {text!r}: numbers and ranges such as 0-7,9 are needed")
        if int(last or first) < int(first):
            raise PolicyError(f"episodes {text!r}: {part} has none; the lower number comes first")
        episodes += range(int(first), int(last or first) + 1)
    return tuple(episodes)
