"""Environments that step together see what each would see alone."""

from __future__ import annotations

import numpy as np
import pytest
from lerobot.envs.factory import make_env, make_env_config
from lerobot.envs.utils import NEW_ROLLOUT_OPTION, close_envs

SEEDS = (3, 8, 21)
STEPS = 4


def rollout(seeds: tuple[int, ...], use_async_envs: bool = False) -> dict[str, np.ndarray]:
    """(STEPS + 1, len(seeds), ...) of each observation, acted on by a policy that looks at state and picture."""
    config = make_env_config("robosuite", task="Lift", image_height_px=32, image_width_px=40)
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
