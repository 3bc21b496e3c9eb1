"""Meta-World: LeRobot's environment at another size, its experts, and recordings of one task and of several."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest

pytest.importorskip("metaworld")

from lerobot_env_omnistream import MetaworldEnvConfig, SimError, recording
from lerobot_env_omnistream.metaworld import task_sets
from lerobot_env_omnistream.recording import record
from lerobot_env_omnistream.trials import run_trial, timed_trials


@pytest.fixture(scope="module")
def reach():
    env = MetaworldEnvConfig(task="reach-v3", image_size_px=48).make_env()
    yield env
    env.close()


def test_it_is_lerobots_environment_at_another_size(reach):
    """The same seed and actions give the state that LeRobot's own environment gives; only the picture is smaller, and
    without shadows."""
    from lerobot.envs.metaworld import MetaworldEnv

    own = MetaworldEnv(task="reach-v3", obs_type="pixels_agent_pos")
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 4))
    own._ensure_env()
    own._env.model.light_castshadow[:] = own._env.model.mat_reflectance[:] = 0
    ours, theirs = reach.reset(seed=5)[0], own.reset(seed=5)[0]
    assert ours["pixels"].shape == (48, 48, 3) and theirs["pixels"].shape == (480, 480, 3)
    blocks = theirs["pixels"].reshape(48, 10, 48, 10, 3).mean((1, 3))
    assert np.abs(blocks - ours["pixels"]).mean() < 3, "the same view"
    for action in actions:
        np.testing.assert_array_equal(ours["agent_pos"], theirs["agent_pos"])
        ours, theirs = reach.step(action)[0], own.step(action)[0]
    own.close()


def test_pictures_outlive_the_other_environments_of_a_process():
    gc.collect()  # what is left of Gymnasium's renderers frees things of whichever context is current
    first, other = (MetaworldEnvConfig(task=task, image_size_px=48).make_env() for task in ("reach-v3", "door-open-v3"))
    before = first.reset(seed=5)[0]["pixels"]
    assert np.abs(other.reset(seed=5)[0]["pixels"].astype(int) - before).mean() > 3, "another task"
    other.close()
    np.testing.assert_array_equal(first.reset(seed=5)[0]["pixels"], before)
    assert before.std() > 20, "not black"
    first.close()


def test_the_expert_succeeds_and_the_horizon_truncates(reach):
    trial = run_trial(reach, seed=3)
    assert trial.success and trial.steps < 100
    short = MetaworldEnvConfig(task="reach-v3", images=False, episode_length=2).make_env()
    short.reset(seed=0)
    ends = [short.step(np.zeros(4))[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]
    assert short.reset(seed=0)[0].keys() == {"agent_pos"}
    short.close()


def test_lerobot_builds_every_task_of_a_set():
    from lerobot.envs.factory import make_env, make_env_config
    from lerobot.envs.utils import close_envs, env_to_policy_features, preprocess_observation

    config = make_env_config("metaworld_sized", task="reach-v3,door-open-v3", image_size_px=32)
    features = env_to_policy_features(config)
    assert features["observation.image"].shape == (3, 32, 32) and features["observation.state"].shape == (4,)
    envs = make_env(config, n_envs=1)
    assert list(envs) == ["reach-v3", "door-open-v3"]
    vector = envs["door-open-v3"][0]
    batch = preprocess_observation(vector.reset(seed=[0])[0])
    assert batch["observation.image"].shape == (1, 3, 32, 32)
    assert vector.call("task_description") == ("Open a door with a revolving joint",)
    close_envs(envs)


def test_two_tasks_become_one_dataset(tmp_path, one_process):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    config = MetaworldEnvConfig(task="reach-v3,button-press-v3", image_size_px=32)
    seen = []
    record(config, 2, tmp_path / "two", show=seen.append)
    assert (seen[-1].recorded, seen[-1].wanted) == (4, 4)
    dataset = LeRobotDataset("omnistream/two", root=tmp_path / "two")
    assert dataset.num_episodes == 4 and dataset.fps == 80
    starts = np.cumsum([0] + [dataset.meta.episodes[index]["length"] for index in range(3)])
    texts = [dataset[int(start)]["task"] for start in starts]
    assert texts == ["Reach a goal position"] * 2 + ["Press a button"] * 2
    assert dataset[0]["observation.image"].shape == (3, 32, 32) and dataset[0]["action"].shape == (4,)
    summary = json.loads((tmp_path / "two" / "meta" / "recording.json").read_text())
    assert summary["tasks"]["button-press-v3"]["seeds"] == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    record(config, 2, tmp_path / "two")  # finished: nothing to do


def test_a_killed_recording_of_several_tasks_goes_on(tmp_path, one_process):
    config = MetaworldEnvConfig(task="reach-v3,button-press-v3", image_size_px=32)
    joined = recording._join_episodes

    def killed(parts, out, *rest):
        if out.name == "button-press-v3":
            raise KeyboardInterrupt
        joined(parts, out, *rest)

    one_process.setattr(recording, "_join_episodes", killed)
    with pytest.raises(KeyboardInterrupt):
        record(config, 1, tmp_path / "two")
    assert not (tmp_path / "two").exists() and (tmp_path / "two.tasks" / "reach-v3").exists()
    one_process.setattr(recording, "_join_episodes", joined)
    one_process.setattr(recording, "run_episode", None)  # both episodes are there: nothing may be recorded again
    record(config, 1, tmp_path / "two")
    assert (tmp_path / "two" / "meta" / "recording.json").exists()


def test_refusals():
    with pytest.raises(SimError, match=r"unknown metaworld task 'juggle-v3'; known: MT10, MT50, assembly-v3"):
        MetaworldEnvConfig(task="juggle-v3")
    with pytest.raises(SimError, match=r"image_size_px is 5; it must lie in 16 ... 480 pixels"):
        MetaworldEnvConfig(image_size_px=5)
    assert (len(task_sets()["MT10"]), len(task_sets()["MT50"])) == (10, 50)


@pytest.mark.slow
def test_experts_of_mt10_succeed():
    configs = MetaworldEnvConfig(task="MT10", images=False).single_tasks()
    summaries = [timed_trials(config, range(20_000, 20_005), workers=1) for config in configs]
    assert sum(summary["successes"] for summary in summaries) >= 45, [s["failed_seeds"] for s in summaries]
