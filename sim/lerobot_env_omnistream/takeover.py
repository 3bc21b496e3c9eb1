"""Episodes that a policy begins and an expert ends: how the mistakes of that very policy are put right.

A policy trained on experts alone has never seen where its own mistakes lead. Ross et al., A Reduction of Imitation
Learning and Structured Prediction to No-Regret Online Learning, 2011 (DAgger); handed over once, as in Kelly et al.,
HG-DAgger: Interactive Imitation Learning with Human Experts, 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lerobot_env_omnistream.environments import EnvConfig, RecordedEnv, config_from_json, config_to_json
from lerobot_env_omnistream.errors import SimError


@dataclass(frozen=True, kw_only=True)
class Takeover:
    """Which policy begins the episodes, and for how long.

    Attributes:
        policy: folder or hub id of a LeRobot policy.
        steps: at most so many before the expert takes over; each episode draws its own number from its seed.
    """

    policy: str
    steps: int = 200

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SimError(f"takeover steps is {self.steps}; at least 1 is needed")

    def check(self, env: EnvConfig) -> None:
        """Raises SimError where the policy cannot be loaded."""
        _pilot(self.policy, config_to_json(env))

    def drive(self, env: RecordedEnv, observation: dict, seed: int) -> tuple[dict, bool]:
        """Lets the policy act in the episode that reset has begun.

        Returns:
            the observation that it leaves, and whether it has ended the episode by itself.
        """
        pilot = _pilot(self.policy, config_to_json(env.config))
        pilot.reset()
        for _ in range(int(np.random.default_rng([seed, 11]).integers(1, self.steps + 1))):
            observation, _, success, truncated, _ = env.step(pilot.act(observation, env.task_description))
            if success or truncated:
                return observation, True
        return observation, False


@dataclass(frozen=True, kw_only=True)
class LoadedPolicy:
    """A LeRobot policy and all processors between it and an environment."""

    policy: Any
    env_before: Any
    before: Any
    after: Any
    env_after: Any


def load_policy(policy: str, env: EnvConfig) -> LoadedPolicy:
    """A policy from its folder or hub id, for one environment, as lerobot-eval loads it."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.envs import make_env_pre_post_processors
    from lerobot.policies import make_pre_post_processors
    from lerobot.policies.factory import get_policy_class
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    config = PreTrainedConfig.from_pretrained(policy)
    loaded = get_policy_class(config.type).from_pretrained(policy, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=policy)
    env_before, env_after = make_env_pre_post_processors(env_cfg=env, policy_cfg=config)
    return LoadedPolicy(policy=loaded, env_before=env_before, before=before, after=after, env_after=env_after)


class Pilot:
    """A LeRobot policy that acts in one environment."""

    def __init__(self, policy: str, env: EnvConfig) -> None:
        self._loaded = load_policy(policy, env)

    def reset(self) -> None:
        self._loaded.policy.reset()

    def act(self, observation: dict[str, Any], task: str) -> np.ndarray:
        """(A,) the action that answers an environment's observation."""
        import torch
        from lerobot.envs.utils import preprocess_observation
        from lerobot.utils.constants import ACTION

        loaded = self._loaded
        batch = loaded.before(loaded.env_before(preprocess_observation(_batched(observation)) | {"task": [task]}))
        with torch.inference_mode():
            action = loaded.after(loaded.policy.select_action(batch))
        return np.clip(loaded.env_after({ACTION: action})[ACTION][0].cpu().numpy(), -1, 1)


@lru_cache(maxsize=1)
def _pilot(policy: str, env: str) -> Pilot:
    """The one policy of a process: loading it costs seconds."""
    try:
        return Pilot(policy, config_from_json(env))
    except Exception as error:  # whatever LeRobot, the hub or the policy itself object to
        raise SimError(f"the policy {policy!r} does not load: {error}") from error


def _batched(observation: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _batched(value) if isinstance(value, dict) else np.asarray(value)[None]
        for key, value in observation.items()
    }
