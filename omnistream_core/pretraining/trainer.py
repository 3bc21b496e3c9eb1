"""The training loop: a round of batches, one update, again; resumable at any moment.

torchrun --nproc-per-node 8 training/pretrain.py ...      or plain python for one process
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnistream_core.errors import OmniStreamError
from omnistream_core.pretraining.config import Stage, TrainConfig
from omnistream_core.pretraining.feed import Feed, StageStart
from omnistream_core.pretraining.learner import Learner, TaskBatch
from omnistream_core.pretraining.monitor import Monitor
from omnistream_core.pretraining.parallel import Processes, clip_gradients, join_processes, parallelise
from omnistream_core.pretraining.state import load_state, newest_state, save_state
from omnistream_core.pretraining.teacher import momentum_at
from omnistream_core.pretraining.words import run_tokenizer

logger = logging.getLogger(__name__)

SPIKE_AFTER = 50  # steps, before which a loss is not called a spike


class TrainingStoppedError(OmniStreamError):
    """A loss or a gradient was not finite, or a loss far above what it had been; the batch is saved."""


def train(
    config: TrainConfig, folder: Path, texts: Iterable[str] = (), *, pause_after_s: float | None = None
) -> Learner:
    """Run, or go on with, the training whose state lies in ``folder``; returns what was learned.

    ``folder`` receives ``config.json`` before the first step, ``state-<step>`` every ``save_every_s`` and at the end,
    a JSON line every ``log_every`` steps in ``log.jsonl``, and TensorBoard's files.

    Args:
        texts: what the small decoder's tokenizer is made from; only read where there are text tasks.
        pause_after_s: save and return after so much time in this start, though the run has not ended.

    Raises:
        TrainingStoppedError: a loss or gradient that is not finite, or a spike; ``stopped-<rank>-<task>.safetensors``
            hold what the round was trained on.
        BadDataError: too many broken clips.
    """
    run = Run(config, folder, texts)
    run.go_on(pause_after_s)
    return run.learner


def make_optimizers(learner: torch.nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """``muon``: Muon for the matrices of the backbone's blocks (Jordan 2024; update scaled to Adam's, Liu 2025) and
    Adam for all else. ``adam``: Adam for all, without weight decay, as in the paper."""
    trained = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    matrices = [p for n, p in trained.items() if "backbone.blocks." in n and p.ndim == 2]
    if config.optimizer == "adam" or not matrices:
        return [torch.optim.Adam(trained.values(), lr=config.lr, betas=(0.9, 0.95))]
    chosen = {id(p) for p in matrices}
    others = [p for p in trained.values() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=config.lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.Adam(others, lr=config.lr, betas=(0.9, 0.95))]


@dataclass
class Clock:
    """Where a run stands. All of it is saved, and with ``steps`` nothing else decides what comes next."""

    step: int = 0
    frames: int = 0
    elapsed_s: float = 0.0
    stage: int = 0
    stage_step: int = 0
    stage_chunk: int = 0
    anchored: float = -1.0
    mean_loss: dict[str, float] = field(default_factory=dict)


class Run:
    """One start of a training run."""

    def __init__(self, config: TrainConfig, folder: Path, texts: Iterable[str] = ()) -> None:
        self.config, self.folder = config, folder
        self.processes = join_processes(config.device)
        torch.manual_seed(config.seed)
        tokenizer = run_tokenizer(config, folder, texts, write=self.processes.first)
        self.learner = Learner(config, tokenizer).train()
        self.module = parallelise(self.learner, config.parallel, self.processes)
        self.optimizers = make_optimizers(self.learner, config)
        self.feed = Feed(config, self.processes, self.learner.language)
        self.clock = Clock()
        self._resume()
        self.monitor = Monitor(config, folder, self.processes, since_step=self.clock.step)
        self._batches: list[TaskBatch] = []
        self._mark = self._saved = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        if self.config.steps is not None:
            return min(1.0, self.clock.step / self.config.steps)
        assert self.config.minutes is not None
        return min(1.0, self.clock.elapsed_s / (60 * self.config.minutes))

    @property
    def stage(self) -> Stage:
        """The stage of this moment."""
        return self.config.stages[self.clock.stage]

    def go_on(self, pause_after_s: float | None = None) -> None:
        """Step to the end of the run, or for so much time, and save; what passes between two calls is not counted."""
        began = self._mark = self._saved = time.monotonic()
        self.monitor.speed.begin(self.clock.frames)
        with self.monitor:
            while self.progress < 1.0:
                self.step()
                if self._paused(began, pause_after_s):
                    break
        self.save()

    def step(self) -> dict[str, float]:
        """One round over all tasks, one update; returns the terms of the loss by ``task/term``."""
        self._enter_stage()
        self._set_lr()
        told = self._round()
        self._update()
        terms = {f"{kind}/{name}": value for kind, losses in told.items() for name, value in losses.items()}
        self._after({kind: sum(losses.values()) for kind, losses in told.items()}, terms)
        return terms

    def _round(self) -> dict[str, dict[str, float]]:
        """Gradients of a batch of every task, added up; the terms of the loss of each, by kind."""
        told: dict[str, dict[str, float]] = {}
        self._batches = []
        for number, task in enumerate(self.config.tasks):
            batch = self.feed.batch(task, self.clock.step, self.stage, self._start, with_gram=self._gram())
            self._batches.append(batch)
            torch.manual_seed(_mixed(self.config.seed, self.clock.step, number))
            with self.monitor.speed.counting():
                losses = self._losses(batch)
                told[task.kind] = _averaged(losses, self.processes)
                self._check(task.kind, told[task.kind])
                (task.weight * torch.stack(list(losses.values())).sum()).backward()
            self.clock.frames += task.frames
        return told

    def _losses(self, batch: TaskBatch) -> dict[str, Tensor]:
        with torch.autocast(self.config.device.split(":")[0], torch.bfloat16, enabled=self.config.bf16):
            losses: dict[str, Tensor] = self.module(batch)
        return losses

    def _paused(self, began: float, pause_after_s: float | None) -> bool:
        return pause_after_s is not None and _agreed(time.monotonic() - began, self.processes) > pause_after_s

    def save(self) -> None:
        """Write the state."""
        save_state(self.folder, self.learner, self.optimizers, asdict(self.clock))

    def _resume(self) -> None:
        state = newest_state(self.folder)
        if state is not None:
            self.clock = Clock(**load_state(state, self.learner, self.optimizers))
            logger.info("resumed at step %d after %.0f s", self.clock.step, self.clock.elapsed_s)
        if self.processes.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.json").write_text(json.dumps(asdict(self.config), indent=1) + "\n")

    @property
    def _start(self) -> StageStart:
        return StageStart(step=self.clock.stage_step, chunk=self.clock.stage_chunk)

    def _enter_stage(self) -> None:
        now = next(i for i, stage in enumerate(self.config.stages) if self.progress < stage.until)
        if now != self.clock.stage:
            newest = self.feed.newest_chunk(self.clock.step, self.stage, self._start)
            self.clock.stage, self.clock.stage_step, self.clock.stage_chunk = now, self.clock.step, newest + 1

    def _gram(self) -> bool:
        """Whether patches are held to the anchor; it is renewed every so often."""
        config = self.config.self_supervision
        if not self.config.self_supervised or self.progress < config.gram_from:
            return False
        if self.clock.anchored < 0 or self.progress >= self.clock.anchored + config.gram_every:
            self.learner.set_anchor()
            self.clock.anchored = self.progress
        return True

    def _check(self, kind: str, terms: dict[str, float]) -> None:
        """Stops at a loss of a task that is not finite or far above that task's recent mean."""
        total, mean = sum(terms.values()), self.clock.mean_loss.get(kind, 0.0)
        spike = self.clock.step > SPIKE_AFTER and total > self.config.spike * mean > 0
        if spike or not math.isfinite(total):
            self._stop(f"{kind}: loss {total:.4g} ({terms}), mean before {mean:.4g}")

    def _stop(self, why: str) -> NoReturn:
        kept = {f"stopped-{self.processes.rank}-{batch.kind}.safetensors": batch for batch in self._batches}
        for name, batch in kept.items():
            save_file(_tensors(batch), self.folder / name, {"step": str(self.clock.step), "kind": batch.kind})
        raise TrainingStoppedError(
            f"step {self.clock.step}, {why}; what the round was trained on is in {self.folder}: {', '.join(kept)}"
        )

    def _update(self) -> None:
        norm = float(clip_gradients(self.learner, self.config.clip_norm))
        if not math.isfinite(norm):  # the weights are still those before
            self._stop(f"gradient of norm {norm}")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.learner.follow(momentum_at(self.progress, self.config.self_supervision.momentum))

    def _after(self, totals: dict[str, float], terms: dict[str, float]) -> None:
        clock = self.clock
        for kind, total in totals.items():
            clock.mean_loss[kind] = 0.98 * clock.mean_loss.get(kind, total) + 0.02 * total
        clock.step += 1
        now = time.monotonic()
        clock.elapsed_s = _agreed(clock.elapsed_s + now - self._mark, self.processes)
        self._mark = now
        self.monitor.after_step(clock.step, clock.frames, clock.elapsed_s, self.progress, terms)
        if self.config.pictures_every and clock.step % self.config.pictures_every == 0:
            self.monitor.pictures(clock.step, self.learner, self._picture_batch())
        if _agreed(now - self._saved, self.processes) > self.config.save_every_s:
            self.save()
            self._saved = now

    def _picture_batch(self) -> TaskBatch | None:
        for task in self.config.tasks:
            if task.kind == "geometry":
                return self.feed.batch(task, self.clock.step, self.stage, self._start, with_gram=False)
        return None

    def _set_lr(self) -> None:
        warm = min(1.0, (self.clock.step + 1) / self.config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr * warm * max(cosine, 0.01)


def _mixed(seed: int, step: int, task: int) -> int:
    """The same number on every process: what a forward pass draws is alike everywhere."""
    return (seed * 1_000_003 + step) * 16 + task


def _averaged(losses: dict[str, Tensor], processes: Processes) -> dict[str, float]:
    values = torch.stack([v.detach().float() for v in losses.values()])
    if processes.count > 1:
        torch.distributed.all_reduce(values)
        values /= processes.count
    return dict(zip(losses, values.tolist(), strict=True))


def _agreed(seconds: float, processes: Processes) -> float:
    """The first process's clock, so that all do the same thing at the same step."""
    if processes.count == 1:
        return seconds
    value = [seconds]
    torch.distributed.broadcast_object_list(value, src=0)
    return value[0]


def _tensors(record: Any, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a record of records by dotted name."""
    found: dict[str, Tensor] = {}
    for name, value in vars(record).items():
        if isinstance(value, Tensor):
            found[prefix + name] = value.detach().cpu().contiguous()
        elif hasattr(value, "__dataclass_fields__"):
            found |= _tensors(value, f"{prefix}{name}.")
    return found
