"""``omnistream eval world``: what a frozen backbone knows, judged on worlds that no training has seen.

Every probe is a function of frozen features and of the truth. The same probes judge a random backbone of the same size,
and what is reached without looking at the images stands beside both.

Shape letters: B clips, T frames, K masks, N patches, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from omnistream_core.config import StreamConfig
from omnistream_core.errors import ConfigError
from omnistream_core.evaluation import dense, geometry, motion, neighbours, propagation
from omnistream_core.evaluation.dense import Side
from omnistream_core.evaluation.features import encode, extract
from omnistream_core.evaluation.held_out import LabelledClips, render, split_seeds
from omnistream_core.evaluation.propagation import PropagationConfig
from omnistream_core.evaluation.questions import Asked, QuestionConfig, answer_questions, ask, blind, descriptions
from omnistream_core.model import OmniStreamModel, build_model
from omnistream_core.pretraining.world import Description, WorldConfig

DENSE = {"depth": dense.depth, "normals": dense.normals, "segmentation": dense.segmentation, "pose": dense.pose}
PROBES = ("heads", *DENSE, "knn", "order", "jf", "questions")
Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class WorldEvaluation:
    """What is judged, on how much.

    Attributes:
        probes: of ``PROBES``.
        judge_clips, fit_clips: clips that give the figures, and clips that probes are fitted on; other seeds.
        jf_clips: the first so many judged worlds, rendered anew at twice the size, for label propagation.
        world: what is rendered.
        propagation: how masks travel.
        questions: the decoder that answers questions, and its budget.
        compared: whether a random backbone, and not looking at all, are judged beside; it doubles the time.
    """

    probes: tuple[str, ...] = PROBES
    judge_clips: int = 64
    fit_clips: int = 128
    jf_clips: int = 24
    world: WorldConfig = field(default_factory=lambda: WorldConfig(frames=16))
    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    compared: bool = True

    def __post_init__(self) -> None:
        unknown = [name for name in self.probes if name not in PROBES]
        if unknown or not self.probes:
            raise ConfigError(f"probes {', '.join(unknown) or 'none'}: choose from {', '.join(PROBES)}")
        if self.world.frames < 4:
            raise ConfigError(f"clips of {self.world.frames} frames: at least 4 are needed")

    def scaled(self, share: float) -> WorldEvaluation:
        """The same on so many times the clips, rounded down, but on no fewer than the probes need."""

        def part(clips: int, least: int) -> int:
            return max(least, int(share * clips))

        judge_clips, fit_clips, jf_clips = part(self.judge_clips, 1), part(self.fit_clips, 4), part(self.jf_clips, 1)
        return replace(self, judge_clips=judge_clips, fit_clips=fit_clips, jf_clips=jf_clips)

    def quick(self) -> WorldEvaluation:
        """For milestones: a quarter of the clips, no questions."""
        return replace(self.scaled(1 / 4), probes=tuple(name for name in self.probes if name != "questions"))


@dataclass(frozen=True, kw_only=True, eq=False)
class _HeldOut:
    """The clips that every backbone is judged on."""

    fit: LabelledClips
    judge: LabelledClips
    masks: LabelledClips | None
    told_fit: tuple[Description, ...] = ()
    told_judge: tuple[Description, ...] = ()


def evaluate_world(
    model: OmniStreamModel,
    stream: StreamConfig,
    config: WorldEvaluation | None = None,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> dict[str, float | str]:
    """All figures of ``model``; those of a random backbone under ``random.``, of not looking under ``baseline.``.

    Returns:
        By probe: ``heads`` the figures of ``geometry.geometry``; ``depth``, ``normals``, ``segmentation``, ``pose``
        those of ``dense``; ``knn`` ``knn_top1``; ``order`` ``motion_order``; ``questions`` ``qa_accuracy`` and
        ``qa_mra``, whose baseline is the same decoder with its eyes shut; ``jf`` ``jf``, ``j``, ``f`` and
        ``jf_ceiling``, what the true masks reach through the same patch grid (none where no clip begins with an object
        large enough). ``abs_rel``, ``delta_1.25``, ``ate_ratio`` and ``ate_straight_ratio`` are those of the heads,
        streamed, where ``abs_rel_from`` is ``heads``; those of the linear probes where it is ``probe``: for a backbone
        without heads, and for the random one.
    """
    config = config or WorldEvaluation()
    on_stage(f"rendering {config.judge_clips + config.fit_clips} clips")
    held_out = _render(config, stream.device)
    on_stage("probing the model")
    figures = _Backbone(model, stream, config, held_out).figures() | _facts(config)
    if not config.compared:
        return figures
    on_stage("probing the random backbone")
    probed = _Backbone(random_like(model), stream, config, held_out)
    figures |= {f"random.{key}": value for key, value in probed.figures().items()}
    return figures | {f"baseline.{key}": value for key, value in _baseline(probed).items()}


def random_like(model: OmniStreamModel, *, seed: int = 0) -> OmniStreamModel:
    """A backbone of the same configuration with fresh random weights and no heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(replace(model.config, heads=None)).eval()


def _render(config: WorldEvaluation, device: str) -> _HeldOut:
    split = split_seeds(judge=config.judge_clips, fit=config.fit_clips)
    fit, judge = (render(seeds, config.world, device) for seeds in (split.fit, split.judge))
    masks: LabelledClips | None = None
    told_fit: tuple[Description, ...] = ()
    told_judge: tuple[Description, ...] = ()
    if "jf" in config.probes:
        twice = replace(config.world, height_px=2 * config.world.height_px, width_px=2 * config.world.width_px)
        masks = render(split.judge[: config.jf_clips], twice, device)
    if "questions" in config.probes:
        told_fit = descriptions(split.fit, config.world, fit)
        told_judge = descriptions(split.judge, config.world, judge)
    return _HeldOut(fit=fit, judge=judge, masks=masks, told_fit=told_fit, told_judge=told_judge)


class _Backbone:
    """A frozen backbone with its features of the held-out clips, ready to be probed."""

    def __init__(
        self, model: OmniStreamModel, stream: StreamConfig, config: WorldEvaluation, held_out: _HeldOut
    ) -> None:
        self.model = model.to(device=stream.device, dtype=getattr(torch, stream.dtype))
        self.stream, self.config, self.held_out = stream, config, held_out
        self.fit, self.judge = (
            Side(clips=clips, features=extract(self.model, stream, clips.images_BT3HW))
            for clips in (held_out.fit, held_out.judge)
        )

    def figures(self) -> dict[str, float | str]:
        """Those of the chosen probes."""
        figures: Figures = {}
        for name in self.config.probes:
            if name in DENSE:
                figures |= DENSE[name](self.fit, self.judge)
        if "knn" in self.config.probes:
            figures["knn_top1"] = neighbours.object_class([self.fit, self.judge])
        if "order" in self.config.probes:
            figures["motion_order"] = motion.order_accuracy(self._both_orders(self.fit), self._both_orders(self.judge))
        if "questions" in self.config.probes:
            fit, judge = self.asked()
            figures |= answer_questions(fit, judge, self.config.questions)
        if self.held_out.masks is not None:
            figures |= self._propagation(self.held_out.masks)
        return self._with_geometry(figures)

    def asked(self) -> tuple[Asked, Asked]:
        """Questions to learn from, and to be judged by."""
        return ask(self.fit.features, self.held_out.told_fit), ask(self.judge.features, self.held_out.told_judge)

    def _with_geometry(self, figures: Figures) -> dict[str, float | str]:
        if "heads" in self.config.probes and self.model.heads is not None:
            return figures | geometry.geometry(self.model, self.stream, self.held_out.judge) | {"abs_rel_from": "heads"}
        probed = {key.removeprefix("probe_"): value for key, value in figures.items() if key.startswith("probe_")}
        return figures | probed | ({"abs_rel_from": "probe"} if probed else {})

    def _both_orders(self, side: Side) -> Tensor:
        travel_B = motion.travel(side.clips)
        chosen = motion.moving(travel_B)
        backwards = extract(self.model, self.stream, side.clips.images_BT3HW[chosen].flip(1))
        return motion.both_orders(travel_B[chosen], side.features.tokens_BTSD[chosen], backwards.tokens_BTSD)

    def _propagation(self, clips: LabelledClips) -> Figures:
        config = self.config.propagation
        scores, ceilings = [], []
        for images_1T3HW, instance_THW in zip(clips.images_BT3HW.split(1), clips.instance_BTHW, strict=True):
            output = encode(self.model, self.stream, images_1T3HW, area_px=config.area_px)
            masks_TKHW = propagation.mask_stack(instance_THW)
            truth_TKN = propagation.to_grid(masks_TKHW, output.grid_hw)
            features_TND = output.patches_BTND[0].float().cpu()
            found_TKN = propagation.propagate(features_TND, output.grid_hw, truth_TKN[0], config)
            scores.append(propagation.score(found_TKN, output.grid_hw, masks_TKHW))
            ceilings.append(propagation.score(truth_TKN, output.grid_hw, masks_TKHW))
        if not any(map(len, scores)):
            return {}
        (j, f), ceiling = np.concatenate(scores).mean(0), np.concatenate(ceilings).mean()
        return {"jf": float(j + f) / 2, "j": float(j), "f": float(f), "jf_ceiling": float(ceiling)}


def _baseline(probed: _Backbone) -> Figures:
    """What is reached without looking: the mean of each place in the image, staying at the origin, the commonest class,
    a coin, masks that stay where they are."""
    probes, figures = probed.config.probes, Figures()
    fit, judge = (dense.place_only(side) for side in (probed.fit, probed.judge))
    for name in probes:
        if name in DENSE and name != "pose":
            figures |= {key.removeprefix("probe_"): value for key, value in DENSE[name](fit, judge).items()}
    if {"heads", "pose"} & set(probes):
        figures |= {"ate_ratio": 1.0}
    if "knn" in probes:
        figures |= {"knn_top1": neighbours.commonest_class([fit, judge])}
    if "order" in probes:
        figures |= {"motion_order": 0.5}
    if "questions" in probes:
        fit_asked, judge_asked = probed.asked()
        figures |= answer_questions(blind(fit_asked), blind(judge_asked), probed.config.questions)
    if (masks := probed.held_out.masks) is not None:
        stays = np.concatenate([propagation.still(instance_THW) for instance_THW in masks.instance_BTHW])
        figures |= {"jf": float(stays.mean())} if len(stays) else {}
    return figures


def _facts(config: WorldEvaluation) -> dict[str, float | str]:
    facts = {"clips": config.judge_clips, "fit_clips": config.fit_clips, "frames": config.world.frames}
    if "jf" in config.probes:
        facts |= {"jf_clips": config.jf_clips, "jf_area_px": config.propagation.area_px}
    return dict(facts)
