"""The step between environment and policy: matrices become the rows of numbers that a recording holds.

A LeRobotDataset can only be joined from parts when its columns are one-dimensional, so recordings hold intrinsics as
(9,) and poses as (16,), row by row. A policy in the simulator is given the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.processor import ObservationProcessorStep, ProcessorStepRegistry

GEOMETRY_KEYS = ("observation.intrinsics.", "observation.world_from_camera.")


@dataclass
@ProcessorStepRegistry.register(name="omnistream_flat_geometry")
class FlatGeometryProcessorStep(ObservationProcessorStep):
    """(B, 3, 3) and (B, 4, 4) to (B, 9) and (B, 16), row by row; everything else is handed on as it is."""

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value.flatten(start_dim=1) if key.startswith(GEOMETRY_KEYS) else value
            for key, value in observation.items()
        }

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        return features
