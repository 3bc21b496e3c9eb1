"""Environments that step together see what each would see alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lerobot.envs.factory import make_env, make_env_config
from lerobot.envs.utils import NEW_ROLLOUT_OPTION, close_envs
from robosuite.environments.manipulation.lift import Lift

SEEDS = (3, 8, 21)
STEPS = 4
SMALL_PICTURES = {"image_height_px": 32, "image_width_px": 40}
CAMERA_KEYS = ("observation.images.agentview", "observation.images.robot0_eye_in_hand")


def rollout(seeds: tuple[int, ...], use_async_envs: bool = False) -> dict[str, np.ndarray]:
    """(STEPS + 1, len(seeds), ...) of each observation, acted on by a policy that looks at state and picture."""
    config = make_env_config("robosuite", task="Lift", **SMALL_PICTURES)
    envs = make_env(config, n_envs=len(seeds), use_async_envs=use_async_envs)
    vector = envs["robosuite"][0]
    weights = np.random.default_rng(0).normal(size=(16, 7))
    try:
        seen = [vector.reset(seed=list(seeds), options={NEW_ROLLOUT_OPTION: True})[0]]
        for _ in range(STEPS):
            brightness_B1 = seen[-1]["pixels"]["agentview"].reshape(len(seeds), -1).mean(1, keepdims=True) / 255
            action_BA = np.tanh(seen[-1]["agent_pos"] @ weights + brightness_B1).astype(np.float32)
            seen.append(vector.step(action_BA)[0])
    finally:
        close_envs(envs)
    pictures = [{f"image {name}": image for name, image in now["pixels"].items()} for now in seen]
    flat = [{"state": now["agent_pos"]} | shown for now, shown in zip(seen, pictures, strict=True)]
    return {key: np.stack([now[key].astype(np.float64) for now in flat]) for key in flat[0]}


@pytest.fixture(scope="module")
def serial() -> dict[str, np.ndarray]:
    """Each seed in a vector of one."""
    alone = [rollout((seed,)) for seed in SEEDS]
    return {key: np.concatenate([one[key] for one in alone], axis=1) for key in alone[0]}


@pytest.mark.parametrize("use_async_envs", [False, True], ids=["in one process", "in processes of their own"])
def test_vectorised_equals_serial(serial, use_async_envs):
    together = rollout(SEEDS, use_async_envs)
    assert together["state"].shape == (STEPS + 1, len(SEEDS), 16)
    assert np.abs(serial["state"][-1] - serial["state"][0]).max() > 1e-2, "the arm has moved"
    for key, expected in serial.items():
        difference = np.abs(together[key] - expected).max()
        assert difference < 1e-5, f"{key}: largest difference {difference}"


# ---- a policy of this project, as lerobot-eval runs it, in episodes that end ----

HORIZON = 8


def evaluate(policy: tuple[Any, Any, Any], n_envs: int) -> list[dict[str, torch.Tensor]]:
    """Rollouts of all seeds, so many side by side: action (N, T, 7), reward, success and done (N, T), T steps until the
    last of them ends."""
    from lerobot.scripts.lerobot_eval import rollout as lerobot_rollout

    config = make_env_config("robosuite", task="Lift", episode_length=HORIZON, **SMALL_PICTURES)
    envs = make_env(config, n_envs=n_envs)
    env_before, env_after = config.get_env_processors()
    loaded, *processors = policy
    groups = [list(SEEDS[first : first + n_envs]) for first in range(0, len(SEEDS), n_envs)]
    parts = envs["robosuite"][0], loaded, env_before, env_after, *processors
    try:
        return [lerobot_rollout(*parts, seeds=seeds) for seeds in groups]
    finally:
        close_envs(envs)


@pytest.fixture
def policy() -> tuple[Any, Any, Any]:
    """A policy that was never trained, which plans every second step; its processors."""
    pytest.importorskip("lerobot_policy_omnistream")
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import make_pre_post_processors

    from lerobot_policy_omnistream import OmnistreamConfig
    from lerobot_policy_omnistream.modeling_omnistream import OmnistreamPolicy

    torch.manual_seed(0)
    images = {key: PolicyFeature(FeatureType.VISUAL, (3, 32, 40)) for key in CAMERA_KEYS}
    config = OmnistreamConfig(
        backbone="random:tiny",
        **{"head": "mlp", "chunk_size": 4, "n_action_steps": 2, "stream_frames": 4, "image_area_px": 32 * 40},
        **{"tokens_per_camera": 2, "dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "device": "cpu"},
        input_features=images | {"observation.state": PolicyFeature(FeatureType.STATE, (16,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
    )
    sizes = {"observation.state": 16, "action": 7}
    stats = {key: {"mean": torch.zeros(size), "std": torch.ones(size)} for key, size in sizes.items()}
    return OmnistreamPolicy(config).eval(), *make_pre_post_processors(config, dataset_stats=stats)


def lies_far_enough(world: Any) -> bool:
    """A success after a number of steps that depends on where the cube lies."""
    x_m, _, _ = world.sim.data.body_xpos[world.cube_body_id]
    return world.timestep >= 2 + 700 * abs(x_m)


def test_a_policy_is_evaluated_alike_side_by_side_and_one_by_one(policy, monkeypatch):
    monkeypatch.setattr(Lift, "_check_success", lies_far_enough)
    (together,) = evaluate(policy, n_envs=len(SEEDS))
    one_by_one = evaluate(policy, n_envs=1)
    lengths = [alone["action"].shape[1] for alone in one_by_one]
    for row, alone in enumerate(one_by_one):
        for key, expected in alone.items():
            found = together[key][row, : lengths[row]]
            difference = (found.double() - expected[0].double()).abs().max()
            assert difference < 1e-5, f"seed {SEEDS[row]}, {key}: largest difference {difference}"
    assert len(set(lengths)) > 1 and max(lengths) == HORIZON, "some end before others, one is truncated"
    assert together["success"].any(1).tolist() == [length < HORIZON for length in lengths]
    assert together["action"].std((0, 1)).min() > 1e-3, "the policy looks at what it does"
