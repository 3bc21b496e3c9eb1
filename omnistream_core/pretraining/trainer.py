"""Trains the geometry objectives on the procedural world: render a batch, one step, repeat. Resumable.

Shape letters: B clips, T frames, H W pixels.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from omnistream_core.config import ModelConfig
from omnistream_core.errors import ConfigError
from omnistream_core.model import OmniStreamModel, build_model
from omnistream_core.preprocess import normalise
from omnistream_core.pretraining.objectives import GeometryTruth, GeometryWeights, geometry_losses
from omnistream_core.pretraining.state import load_state, save_state
from omnistream_core.pretraining.world import HELD_OUT_SEED, ClipBatch, WorldConfig, render_clips

logger = logging.getLogger(__name__)

SPAN_FRAMES = 16  # at the world's own rate: the longest time that a clip spans
POOL_BATCHES = 32  # rendered batches that clips are drawn from


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A share of the run with clips of one length.

    Attributes:
        until: fraction of the run at which the stage ends.
        clips, frames: B and T of a batch.
    """

    until: float
    clips: int
    frames: int


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes:
        model: what is trained.
        world: what it is trained on; the stage sets its clip length.
        stages: in order; the last ends at 1.
        minutes: length of the run, time spent in earlier starts of it included. The schedule follows the clock, so
            that a run ends annealed on a machine of any speed.
        start: state of an earlier run whose weights this run begins with; None begins with random ones.
        lr: peak learning rate of both optimisers.
        warmup_steps: linear rise.
        reuse: how often a rendered clip is seen on average, mirrored half of the time; 1 renders every batch afresh.
        clip_norm: largest norm of the gradient.
        compile: whether the world is compiled.
        bf16: whether the forward pass runs under bfloat16 autocast.
    """

    model: ModelConfig
    world: WorldConfig = field(default_factory=WorldConfig)
    weights: GeometryWeights = field(default_factory=GeometryWeights)
    stages: tuple[Stage, ...] = (Stage(until=1.0, clips=16, frames=4),)
    minutes: float = 30.0
    start: str | None = None
    lr: float = 1.5e-3
    warmup_steps: int = 200
    reuse: int = 4
    clip_norm: float = 1.0
    compile: bool = True
    bf16: bool = True
    device: str = "cpu"
    save_every_s: float = 120.0
    log_every: int = 20

    def __post_init__(self) -> None:
        if not self.stages or self.stages[-1].until != 1.0:
            raise ConfigError("the last training stage must end at 1.0")
        if self.minutes <= 0:
            raise ConfigError(f"training minutes = {self.minutes}: a positive number is needed")
        if self.reuse < 1:
            raise ConfigError(f"training reuse = {self.reuse}: 1 or more is needed")


def train(config: TrainConfig, folder: Path) -> OmniStreamModel:
    """Run, or go on with, the training whose state lies in ``folder``; returns the model.

    ``folder`` receives ``config.json`` before the first step, ``state.safetensors`` every ``save_every_s`` and at
    the end, and one JSON line every ``log_every`` steps in ``log.jsonl``.

    Raises:
        FloatingPointError: a loss that is not finite; the step and the newest world seed are named.
    """
    run = _Run(config, folder)
    for step, clips in run.batches():
        terms = run.step(clips)
        if not all(math.isfinite(v) for v in terms.values()):
            raise FloatingPointError(f"loss {terms} at step {step}, world seeds below {run.next_seed}")
        run.after_step(terms)
    run.save()
    return run.model


def make_optimizers(model: OmniStreamModel, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, Adam for all else (Jordan 2024; update scaled to Adam's, Liu 2025)."""
    matrices = [p for p in model.backbone.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.Adam(others, lr=lr, betas=(0.9, 0.95))]


def truth_of(clips: ClipBatch) -> GeometryTruth:
    """The truth that a rendered batch carries."""
    return GeometryTruth(
        depth_m_BTHW=clips.depth_m_BTHW,
        world_from_camera_BT44=clips.world_from_camera_BT44,
        intrinsics_B33=clips.intrinsics_B33,
    )


class _Run:
    """One start of a training run: model, optimisers, clock, log."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        self.model = build_model(config.model, device=config.device).train()
        self.optimizers = make_optimizers(self.model, config.lr)
        self._pool: deque[ClipBatch] = deque(maxlen=POOL_BATCHES)
        self.step_number, self.frames_seen, self.elapsed_s, self.next_seed = 0, 0, 0.0, 0
        if config.start is not None:
            load_state(Path(config.start), self.model, [])
        if (folder / "state.safetensors").exists():
            facts = load_state(folder / "state.safetensors", self.model, self.optimizers)
            self.step_number, self.frames_seen = facts["step"], facts["frames"]
            self.elapsed_s, self.next_seed = facts["elapsed_s"], facts["next_seed"]
            logger.info("resumed at step %d after %.0f s", self.step_number, self.elapsed_s)
        (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))
        self._mark = self._saved = time.monotonic()

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed_s / (60 * self.config.minutes))

    def batches(self) -> Iterator[tuple[int, ClipBatch]]:
        while self.progress < 1.0:
            stage = next(s for s in self.config.stages if self.progress < s.until)
            if self._pool and self._pool[-1].images_BT3HW.shape[:2] != (stage.clips, stage.frames):
                self._pool.clear()
            if self.step_number % self.config.reuse == 0 or len(self._pool) < self.config.reuse:
                self._pool.append(self._render(stage))
            yield self.step_number, self._pool[-1] if self.config.reuse == 1 else _shuffled(self._pool)

    def _render(self, stage: Stage) -> ClipBatch:
        seeds = range(self.next_seed, self.next_seed + stage.clips)
        self.next_seed += stage.clips
        if self.next_seed >= HELD_OUT_SEED:
            raise ConfigError(f"world seed {self.next_seed} is held out; training uses those below {HELD_OUT_SEED}")
        slowest = min(1.0, stage.frames / SPAN_FRAMES)  # short clips reach as far as long ones, in larger steps
        rate_hz = self.config.world.rate_hz * slowest ** float(torch.rand(()))
        world = replace(self.config.world, frames=stage.frames, rate_hz=rate_hz)
        return render_clips(seeds, world, device=self.config.device, compile=self.config.compile)

    def step(self, clips: ClipBatch) -> dict[str, float]:
        config = self.config
        self._set_lr()
        images = normalise(config.model.preprocess, clips.images_BT3HW)
        with torch.autocast(config.device, torch.bfloat16, enabled=config.bf16):
            output = self.model(images)
        terms = geometry_losses(output.geometry, truth_of(clips), config.weights)
        loss: Tensor = sum(terms.values())  # type: ignore[assignment]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.frames_seen += clips.images_BT3HW.shape[0] * clips.images_BT3HW.shape[1]
        with torch.no_grad():
            abs_rel = _abs_rel(output.geometry.depth_m_BTHW, clips.depth_m_BTHW)
        return {k: v.item() for k, v in terms.items()} | {"loss": loss.item(), "abs_rel": abs_rel.item()}

    def after_step(self, terms: dict[str, float]) -> None:
        self.step_number += 1
        now = time.monotonic()
        self.elapsed_s += now - self._mark
        self._mark = now
        if self.step_number % self.config.log_every == 0:
            facts = {"step": self.step_number, "frames": self.frames_seen, "elapsed_s": round(self.elapsed_s, 1)}
            line = json.dumps(facts | {k: round(v, 4) for k, v in terms.items()})
            with (self.folder / "log.jsonl").open("a") as log:
                log.write(line + "\n")
            logger.info(line)
        if now - self._saved > self.config.save_every_s:
            self.save()
            self._saved = now

    def save(self) -> None:
        facts = {
            "step": self.step_number,
            "frames": self.frames_seen,
            "elapsed_s": self.elapsed_s,
            "next_seed": self.next_seed,
        }
        save_state(self.folder / "state.safetensors", self.model, self.optimizers, facts)

    def _set_lr(self) -> None:
        warm = min(1.0, (self.step_number + 1) / self.config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr * warm * max(cosine, 0.01)


def _shuffled(pool: Sequence[ClipBatch]) -> ClipBatch:
    """A batch of clips drawn from all over the pool, half of the times mirrored."""
    clips = len(pool[0].images_BT3HW)
    drawn = torch.randperm(clips * len(pool))[:clips].tolist()
    batch = {
        f.name: torch.stack([getattr(pool[i // clips], f.name)[i % clips] for i in drawn]) for f in fields(ClipBatch)
    }
    return mirrored(ClipBatch(**batch)) if torch.rand(()) < 0.5 else ClipBatch(**batch)


def mirrored(clips: ClipBatch) -> ClipBatch:
    """The same clips seen in a mirror: x turns its sign in the camera and in the world alike."""
    flip_44 = torch.diag(clips.world_from_camera_BT44.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    intrinsics_B33 = clips.intrinsics_B33.clone()
    intrinsics_B33[:, 0, 2] = clips.images_BT3HW.shape[-1] - intrinsics_B33[:, 0, 2]
    return ClipBatch(
        images_BT3HW=clips.images_BT3HW.flip(-1),
        depth_m_BTHW=clips.depth_m_BTHW.flip(-1),
        world_from_camera_BT44=flip_44 @ clips.world_from_camera_BT44 @ flip_44,
        intrinsics_B33=intrinsics_B33,
        instance_BTHW=clips.instance_BTHW.flip(-1),
    )


def _abs_rel(predicted: Tensor, depth: Tensor) -> Tensor:
    """Mean |d - s d'| / d with the median scale s of each clip."""
    ratio_B = (depth / predicted).flatten(1).median(dim=1).values
    return ((predicted * ratio_B[:, None, None, None] - depth).abs() / depth).mean()
