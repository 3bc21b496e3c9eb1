"""Takeover: what is recorded begins where the policy has led to, and the expert goes on from there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lerobot_env_omnistream import RobosuiteEnvConfig, SimError, recording, takeover
from lerobot_env_omnistream.recording import record, run_episode
from lerobot_env_omnistream.takeover import Pilot, Takeover

pytest.importorskip("lerobot_policy_omnistream")
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import make_pre_post_processors

from lerobot_policy_omnistream import OmnistreamConfig
from lerobot_policy_omnistream.modeling_omnistream import OmnistreamPolicy

SMALL = RobosuiteEnvConfig(cameras=["agentview"], image_height_px=64, image_width_px=64)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    """A policy for Lift that was never trained."""
    out = tmp_path_factory.mktemp("policy")
    config = OmnistreamConfig(backbone="random:tiny", device="cpu", push_to_hub=False)
    config.input_features = {
        "observation.images.agentview": PolicyFeature(type=FeatureType.VISUAL, shape=(3, 64, 64)),
        "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(16,)),
    }
    config.output_features = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(7,))}
    OmnistreamPolicy(config).save_pretrained(out)
    stats = {
        key: {"mean": np.zeros(size), "std": np.ones(size)} for key, size in (("observation.state", 16), ("action", 7))
    }
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(out)
    return str(out)


def test_the_recording_begins_where_the_policy_has_led_to(tmp_path, one_process, policy, make_env):
    handed_over = Takeover(policy=policy, steps=6)
    record(SMALL, 1, tmp_path / "lift", first_seed=3, takeover=handed_over)
    summary = json.loads((tmp_path / "lift" / "meta" / "recording.json").read_text())
    assert summary["takeover"] == {"policy": policy, "steps": 6}

    env = make_env(cameras=["agentview"], image_width_px=64, episode_length=SMALL.episode_length)
    observation, _ = env.reset(seed=summary["seeds"][0])
    at_reset, pilot = observation["agent_pos"], Pilot(policy, SMALL)
    for _ in range(np.random.default_rng([summary["seeds"][0], 11]).integers(1, 7)):
        observation, *_ = env.step(pilot.act(observation, env.task_description))

    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("omnistream/lift", root=tmp_path / "lift")
    np.testing.assert_allclose(dataset[0]["observation.state"], observation["agent_pos"], atol=1e-5)
    assert np.abs(observation["agent_pos"] - at_reset).max() > 1e-3
    assert bool(dataset[len(dataset) - 1]["next.success"])

    with pytest.raises(SimError, match=r"was recorded with takeover .*; choose another folder"):
        record(SMALL, 1, tmp_path / "lift", first_seed=3)


def test_what_the_policy_ends_by_itself_is_not_recorded(make_env, monkeypatch):
    env = make_env(cameras=[])

    class Scripted:
        def reset(self) -> None:
            self.expert = env.make_expert(0)

        def act(self, observation, task) -> np.ndarray:
            return self.expert.act()

    monkeypatch.setattr(takeover, "_pilot", lambda policy, env: Scripted())
    assert run_episode(env, 0, Takeover(policy="the expert", steps=100_000)) == []


@pytest.mark.parametrize(("workers", "threads"), [(1, 2), (2, 1)])
def test_hopeless_corrections_blame_no_one_and_several_workers_take_a_thread_each(
    tmp_path, one_process, workers, threads
):
    class Idle:
        def reset(self) -> None: ...

        def act(self, observation, task) -> np.ndarray:
            assert torch.get_num_threads() == threads
            return np.zeros(7)

    one_process.setattr(recording, "FAILURES_ALLOWED", 1)
    one_process.setattr(takeover, "_pilot", lambda policy, env: Idle())
    torch.set_num_threads(2)
    message = "4 seeds were left out, ended by the policy itself or failed by the expert, and 0 recorded: giving up"
    with pytest.raises(SimError, match=message):
        record(
            replace(SMALL, episode_length=2), 1, tmp_path / "lift", workers=workers, takeover=Takeover(policy="idle")
        )


@pytest.mark.parametrize("task", ["Lift", "Stack"])
def test_an_expert_that_takes_over_keeps_what_the_hand_holds(make_env, task):
    env = make_env(task=task, cameras=[], episode_length=400)
    env.reset(seed=5)
    thing = env.world.cube if task == "Lift" else env.world.cubeA
    expert, success = env.make_expert(5), False
    while not env.world._check_grasp(gripper=env.world.robots[0].gripper, object_geoms=thing):
        env.step(expert.act())
    second, held = env.make_expert(6), []
    while not success and len(held) < 300:
        action = second.act()
        held.append(action[-1] > 0)
        *_, success, _, _ = env.step(action)
    assert success and all(held[:10])


def test_a_policy_that_does_not_load_is_named(tmp_path):
    with pytest.raises(SimError, match="'nowhere' does not load"):
        record(SMALL, 1, tmp_path / "lift", takeover=Takeover(policy="nowhere"))
