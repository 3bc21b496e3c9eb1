"""What happens between LeRobot's observations and the policy, and between its actions and the robot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lerobot.lerobot_types import PolicyAction
from lerobot.processor import PolicyProcessorPipeline, make_default_pre_post_processors

from lerobot_policy_omnistream.configuration_omnistream import OmnistreamConfig


def make_omnistream_pre_post_processors(
    config: OmnistreamConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """LeRobot's default steps; only proprioception and actions are normalised.

    Images stay in 0..1, their mean and deviation travel with the backbone. Camera matrices and poses, which LeRobot
    takes for proprioception, pass through as they are.
    """
    used = replace(config, input_features=config.used_features())
    keys = {*used.input_features, *config.output_features}
    stats = {key: value for key, value in (dataset_stats or {}).items() if key in keys}
    return make_default_pre_post_processors(used, stats or None, normalizer_device=config.device)
