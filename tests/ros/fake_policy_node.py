"""Run as a process: the policy node with a policy of a few lines, which does what ``task`` says.

Its action is (grey level of the picture / 100, sum of the state); other tasks: "far", "nan", "slow".
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from omnistream_policy.parameters import PolicySettings
from omnistream_policy.policy import PolicyShape
from omnistream_policy.policy_node import main


class FakePolicy:
    """A picture of 64 x 48 pixels and two numbers in, two numbers out."""

    shape = PolicyShape(images_hw={"observation.images.front": (48, 64)}, state_size=2, action_size=2)

    def __init__(self, settings: PolicySettings) -> None:
        self.first = True

    def reset(self) -> None:
        self.first = True

    def act(self, images: Mapping[str, np.ndarray], state_S: np.ndarray, task: str) -> np.ndarray:
        picture_HW3 = images["observation.images.front"]
        assert picture_HW3.shape == (48, 64, 3) and picture_HW3.dtype == np.uint8
        if task == "slow":
            time.sleep(1.2)
        special = {"far": [50.0, -50.0], "nan": [0.0, float("nan")]}
        return np.array(special.get(task, [picture_HW3.mean() / 100, state_S.sum()]))


if __name__ == "__main__":
    main(policy_factory=FakePolicy)
