"""The three objectives as pure functions: streaming geometry, self-supervision, language."""

from omnistream_core.pretraining.objectives.geometry import GeometryTruth, GeometryWeights, geometry_losses
from omnistream_core.pretraining.objectives.language import answer_loss
from omnistream_core.pretraining.objectives.self_supervision import (
    SelfSupervisionWeights,
    dino_loss,
    gram_loss,
    ibot_loss,
    koleo_loss,
    sinkhorn_knopp,
)

__all__ = [
    "GeometryTruth",
    "GeometryWeights",
    "SelfSupervisionWeights",
    "answer_loss",
    "dino_loss",
    "geometry_losses",
    "gram_loss",
    "ibot_loss",
    "koleo_loss",
    "sinkhorn_knopp",
]
