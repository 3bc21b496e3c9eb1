"""Pose and field of view from the camera token. Shape letters: B streams, T frames, D channels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnistream_core.config import HeadConfig
from omnistream_core.types import BackboneOutput


class CameraHead(nn.Module):
    """An MLP on CAM: quaternion (4), translation (3), field of view (2), in the stream's world."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, config.camera_hidden)
        self.fc2 = nn.Linear(config.camera_hidden, config.camera_hidden)
        self.out = nn.Linear(config.camera_hidden, 9)

    def forward(self, features: BackboneOutput) -> tuple[Tensor, Tensor, Tensor]:
        """Unit quaternion wxyz (B, T, 4), translation in metres (B, T, 3), fov in radians (B, T, 2): across, down."""
        if features.cam_BTD is None:
            raise ValueError("the camera head needs a backbone with a camera token")
        hidden = F.gelu(self.fc2(F.gelu(self.fc1(features.cam_BTD))))
        quaternion_BT4, translation_BT3, fov_BT2 = self.out(hidden).float().split((4, 3, 2), dim=-1)
        identity = quaternion_BT4.new_tensor([1.0, 0.0, 0.0, 0.0])
        quaternion_BT4 = F.normalize(quaternion_BT4 + identity, dim=-1)
        # At zero output the field of view is 1 rad; it never leaves (0, pi).
        fov_BT2 = math.pi * torch.sigmoid(fov_BT2 - math.log(math.pi - 1))
        return quaternion_BT4, translation_BT3, fov_BT2
