"""Everything that is trained, as one module: a batch of one task in, the terms of its loss out.

Shape letters: V views, G global views, B clips, T frames, X = B * T images, N patches, M masked patches, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from omnistream_core.backbone import Backbone
from omnistream_core.checkpoint import read_checkpoint, resolve, with_time
from omnistream_core.errors import CheckpointError, ConfigError
from omnistream_core.heads.language import LANGUAGE_FOLDER, LanguageHead, TextBatch, build_language_head
from omnistream_core.heads.projection import ProjectionHead
from omnistream_core.model import OmniStreamModel, build_model
from omnistream_core.preprocess import normalise
from omnistream_core.pretraining.config import SelfSupervisionConfig, TaskKind, TrainConfig
from omnistream_core.pretraining.objectives import (
    GeometryTruth,
    answer_loss,
    dino_loss,
    geometry_losses,
    gram_loss,
    ibot_loss,
    koleo_loss,
    sinkhorn_knopp,
)
from omnistream_core.pretraining.teacher import follow, frozen_copy
from omnistream_core.pretraining.views import Views

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

from omnistream_core.types import GeometryOutput

Losses: TypeAlias = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskBatch:
    """What one task of a step is trained on; the fields that its kind does not read are None.

    Attributes:
        kind: of the task.
        images_BT3HW: RGB, 0..255 (geometry, text).
        visible_TT: bool, which frame may see which; None is causal (geometry, text).
        frame_index_T: when each frame was taken; None is one after the other (geometry, text).
        truth: of the geometry.
        words: prompts and answers.
        views: of self-supervision.
        with_gram: whether patch similarities are held to the anchor.
    """

    kind: TaskKind
    images_BT3HW: Tensor | None = None
    visible_TT: Tensor | None = None
    frame_index_T: Tensor | None = None
    truth: GeometryTruth | None = None
    words: TextBatch | None = None
    views: Views | None = None
    with_gram: bool = False

    @property
    def memory(self) -> dict[str, Tensor | None]:
        """What the backbone is told of the frames' memory."""
        return {"visible_TT": self.visible_TT, "frame_index_T": self.frame_index_T}


class Projections(nn.Module):
    """The projection heads of self-supervision: one for CLS, one for patches."""

    def __init__(self, width: int, config: SelfSupervisionConfig) -> None:
        super().__init__()
        sizes = {"hidden": config.hidden, "bottleneck": config.bottleneck, "prototypes": config.prototypes}
        self.cls = ProjectionHead(width, **sizes | {"prototypes": config.cls_prototypes or config.prototypes})
        self.patch = ProjectionHead(width, **sizes)
        self.cls.init_weights()
        self.patch.init_weights()


class Teacher(nn.Module):
    """A moving average of backbone and projections, which no gradient reaches."""

    def __init__(self, backbone: Backbone, projections: Projections) -> None:
        super().__init__()
        self.backbone: Backbone = frozen_copy(backbone)
        self.projections: Projections = frozen_copy(projections)


class Learner(nn.Module):
    """Student, teachers and heads of the configured tasks; ``forward`` gives weighted terms, to be summed."""

    def __init__(self, config: TrainConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = _start_model(config)
        self.language: LanguageHead | None = None
        if config.self_supervised:
            self.projections = Projections(self.model.config.backbone.width, config.self_supervision)
            self.teacher = Teacher(self.model.backbone, self.projections)
            self.anchor: Backbone = frozen_copy(self.model.backbone)
        elif config.freeze_backbone:
            self.model.backbone.requires_grad_(False)
        else:
            self.model.backbone.mask_token.requires_grad_(False)  # nothing is masked, so nothing teaches it
        if "text" in config.kinds:
            self.language = _language(config, tokenizer)
        self.to(config.device)

    def train(self, mode: bool = True) -> Learner:
        """Teachers are never in training mode."""
        super().train(mode)
        for name in ("teacher", "anchor"):
            if hasattr(self, name):
                getattr(self, name).eval()
        return self

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """Terms of the batch's loss by name, weighted within their objective."""
        objectives = {"geometry": self._geometry, "text": self._text}
        losses = objectives.get(batch.kind, self._self_supervision)(batch)
        with torch.autocast(self.config.device.split(":")[0], enabled=False):  # whatever the networks ran in
            return losses()

    @torch.no_grad()
    def predict(self, images_BT3HW: Tensor) -> GeometryOutput | None:
        """Geometry of a batch's images, as the heads see it today."""
        was_training = self.training
        self.eval()
        geometry = self.model(self._input(images_BT3HW)).geometry
        self.train(was_training)
        return geometry

    def follow(self, momentum: float) -> None:
        """Move the teacher towards the student."""
        if self.config.self_supervised:
            follow(self.teacher.backbone, self.model.backbone, momentum)
            follow(self.teacher.projections, self.projections, momentum)

    def set_anchor(self) -> None:
        """Make today's teacher the one that patch similarities are held to."""
        if self.config.self_supervised:
            follow(self.anchor, self.teacher.backbone, 0.0)

    # ---- the networks of an objective, and its losses, still to be computed ----

    def _geometry(self, batch: TaskBatch) -> Losses:
        assert batch.images_BT3HW is not None and batch.truth is not None
        geometry = self.model(self._input(batch.images_BT3HW), **batch.memory).geometry
        assert geometry is not None
        return partial(geometry_losses, geometry, batch.truth, self.config.geometry)

    def _text(self, batch: TaskBatch) -> Losses:
        assert batch.images_BT3HW is not None and batch.words is not None and self.language is not None
        features = self.model.backbone(self._input(batch.images_BT3HW), **batch.memory)
        logits_BLV, labels_BL = self.language(features, batch.words.ids_BL), batch.words.labels_BL
        return lambda: {"answer": answer_loss(logits_BLV, labels_BL)}

    def _self_supervision(self, batch: TaskBatch) -> Losses:
        assert batch.views is not None
        config, views = self.config.self_supervision, batch.views
        count = len(views.global_VBT3hw)
        globals_XBT = self._input(views.global_VBT3hw).flatten(0, 1)
        mask_XBTN = views.mask_VBTN.flatten(0, 1)
        mask_XN = mask_XBTN.flatten(0, 1)
        with torch.no_grad():
            seen = self.teacher.backbone(globals_XBT)
            teacher_XK = self.teacher.projections.cls(seen.cls_BTD.flatten(0, 1))
            teacher_MK = self.teacher.projections.patch(seen.patches_BTND.flatten(0, 1)[mask_XN])
            anchor_XND = self.anchor(globals_XBT).patches_BTND.flatten(0, 1) if batch.with_gram else None
        hidden = self.model.backbone(globals_XBT, mask_BTN=mask_XBTN)
        cls_VBTD, patches_XND = hidden.cls_BTD.unflatten(0, (count, -1)), hidden.patches_BTND.flatten(0, 1)
        cls_VXD = [cls_VBTD.flatten(1, 2)]
        if len(views.local_VBT3hw):
            small = self.model.backbone(self._input(views.local_VBT3hw).flatten(0, 1))
            cls_VXD.append(small.cls_BTD.unflatten(0, (len(views.local_VBT3hw), -1)).flatten(1, 2))
        student_VXK = self.projections.cls(torch.cat(cls_VXD))
        student_MK = self.projections.patch(patches_XND[mask_XN])

        def losses() -> dict[str, Tensor]:
            sharp, weights = {"temperature": config.student_temperature}, config.weights
            teacher_GXK = sinkhorn_knopp(teacher_XK, config.teacher_temperature).unflatten(0, (count, -1))
            terms = {"dino": weights.dino * dino_loss(student_VXK, teacher_GXK, **sharp)}
            assigned_MK = sinkhorn_knopp(teacher_MK, config.teacher_temperature)
            image_M = mask_XN.nonzero()[:, 0]
            terms["ibot"] = weights.ibot * ibot_loss(student_MK, assigned_MK, image_M, len(mask_XN), **sharp)
            terms["koleo"] = weights.koleo * self._koleo(cls_VBTD)
            if anchor_XND is not None:
                terms["gram"] = weights.gram * gram_loss(patches_XND, anchor_XND)
            return terms

        return losses

    @staticmethod
    def _koleo(cls_VBTD: Tensor) -> Tensor:
        """Mean over the global views."""
        return torch.stack([koleo_loss(cls_BTD.transpose(0, 1)) for cls_BTD in cls_VBTD]).mean()

    def _input(self, images: Tensor) -> Tensor:
        return normalise(self.config.model.preprocess, images)


def _start_model(config: TrainConfig) -> OmniStreamModel:
    """Fresh weights, or those of a checkpoint as far as it has them: the backbone whole, heads where they are alike."""
    model = build_model(config.model)
    if config.start is None:
        return model
    folder = resolve(config.start)
    theirs, tensors = read_checkpoint(folder)
    if not theirs.backbone.camera_token:
        theirs, tensors = with_time(theirs, tensors)
    own = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and v.shape == own[k].shape}
    for key, value in own.items():
        if key.startswith("backbone.") and key not in fitting:
            raise CheckpointError(f"{folder}: tensor {key!r} of shape {tuple(value.shape)} is needed to start from it")
    model.load_state_dict(own | fitting)
    if config.reset_confidence and model.heads is not None:
        model.heads.dense.reset_confidence()
    return model


def _language(config: TrainConfig, tokenizer: PreTrainedTokenizerBase | None) -> LanguageHead:
    """That of the checkpoint that the run starts from, where it has one; else a fresh one."""
    earlier = start_language(config)
    if earlier is not None:
        return LanguageHead.from_pretrained(earlier)
    if tokenizer is None:
        raise ConfigError("text tasks need a tokenizer: see heads.language.make_tokenizer")
    return build_language_head(config.model.backbone.width, config.language, tokenizer)


def start_language(config: TrainConfig) -> Path | None:
    """Folder of the language head that the run starts from; None where it starts with a fresh one."""
    folder = None if config.start is None else resolve(config.start) / LANGUAGE_FOLDER
    return folder if folder is not None and folder.exists() else None
