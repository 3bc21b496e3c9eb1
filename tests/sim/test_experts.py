"""Experts solve their tasks; their motion is smooth and differs from seed to seed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from lerobot_env_omnistream import RobosuiteEnvConfig, SimError
from lerobot_env_omnistream.experts import SCRIPTS, Expert
from lerobot_env_omnistream.experts.arm import nearest
from lerobot_env_omnistream.trials import run_trial, timed_trials


@pytest.fixture(scope="module")
def lift_physics(make_env):
    return make_env(cameras=[], episode_length=400)


def test_lift_is_solved_smoothly_and_in_varied_ways(lift_physics):
    trials = [run_trial(lift_physics, seed) for seed in range(500, 504)]
    assert [trial.success for trial in trials] == [True] * 4
    assert max(trial.largest_change for trial in trials) < 0.2
    assert len({trial.steps for trial in trials}) > 1


def test_an_expert_repeats_itself_for_the_same_seed(lift_physics):
    def actions() -> list[np.ndarray]:
        lift_physics.reset(seed=7)
        expert = Expert("Lift", lift_physics.world, seed=7)
        taken = []
        for _ in range(10):
            taken.append(expert.act())
            lift_physics.step(taken[-1])
        return taken

    np.testing.assert_array_equal(actions(), actions())


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(SCRIPTS))
def test_every_expert_succeeds_in_95_of_100_episodes(task):
    config = RobosuiteEnvConfig(task=task, cameras=[])
    summary = timed_trials(config, range(20_000, 20_020), workers=1)
    assert summary["success_rate"] >= 0.95, summary["failed_seeds"]


def test_experts_refuse_worlds_they_cannot_steer(make_env, lift_physics):
    lift_physics.reset(seed=0)
    with pytest.raises(SimError, match=r"no expert for 'Wipe'; there are: Lift, Stack"):
        Expert("Wipe", lift_physics.world, seed=0)
    joints = make_env(cameras=[], controller="joint_delta")
    joints.reset(seed=0)
    with pytest.raises(SimError, match="osc_pose_delta"):
        Expert("Lift", joints.world, seed=0)


@pytest.mark.parametrize(("angle", "period", "to", "expected"), [(3.0, np.pi, 0.0, 3.0 - np.pi), (-0.2, 1.0, 2.0, 1.8)])
def test_nearest_angle(angle, period, to, expected):
    assert nearest(angle, period, to) == pytest.approx(expected)


@pytest.mark.slow
def test_the_command_writes_its_figures(tmp_path):
    command = [sys.executable, "-c", "from lerobot_env_omnistream.cli import experts_main; experts_main()"]
    arguments = ["--task", "Lift", "--episodes", "1", "--json", str(tmp_path / "lift.json")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    assert "Lift: 1 of 1 episodes" in done.stdout
    assert json.loads((tmp_path / "lift.json").read_text())["success_rate"] == 1
    wrong = subprocess.run([*command, "--task", "Juggle"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "unknown robosuite task 'Juggle'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
