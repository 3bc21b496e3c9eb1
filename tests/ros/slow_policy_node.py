"""Run as a process: the policy node with a policy of this project that plans ``task`` seconds longer than it would."""

from __future__ import annotations

import time
from typing import Any

from lerobot_policy_omnistream.modeling_omnistream import OmnistreamPolicy
from omnistream_policy.policy_node import main

plan = OmnistreamPolicy._plan


def slow_plan(self: OmnistreamPolicy, features: Any, batch: dict[str, Any], *rest: Any, **named: Any) -> Any:
    task = batch["task"] if isinstance(batch["task"], str) else batch["task"][0]
    time.sleep(float(task or 0))
    return plan(self, features, batch, *rest, **named)


if __name__ == "__main__":
    OmnistreamPolicy._plan = slow_plan
    main()
