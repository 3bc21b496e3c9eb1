"""Recording: what is written is what was seen, a killed recording goes on, and nothing is ever half there."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from lerobot_env_omnistream import RobosuiteEnvConfig, SimError, recording
from lerobot_env_omnistream.recording import record, run_episode, write_dataset

try:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
except Exception as error:  # a missing package raises ImportError; one of another version, anything
    pytest.skip(f"LeRobot's datasets do not load: {error}", allow_module_level=True)


def small(**settings) -> RobosuiteEnvConfig:
    return RobosuiteEnvConfig(cameras=["agentview"], image_height_px=64, image_width_px=64, **settings)


def test_a_killed_recording_goes_on_and_loads(tmp_path, one_process):
    out, parts = tmp_path / "lift", tmp_path / "lift.parts"
    one_process.setattr(recording.ProcessPoolExecutor, "dies_at", 2)
    with pytest.raises(KeyboardInterrupt):
        record(small(), 2, out)
    assert [path.name for path in parts.glob("episode-*")] == ["episode-00000000"]
    assert not out.exists()
    (parts / "unfinished-00000001-1").mkdir()  # what a killed worker leaves
    first = (parts / "episode-00000000" / "meta" / "info.json").stat().st_mtime_ns

    one_process.setattr(recording.ProcessPoolExecutor, "dies_at", None)
    seen = []
    scheduling = os.sched_getscheduler(0)
    joined = recording._join_episodes

    def join(where, *arguments):
        assert (where / "episode-00000000" / "meta" / "info.json").stat().st_mtime_ns == first, "recorded twice"
        joined(where, *arguments)

    one_process.setattr(recording, "_join_episodes", join)
    record(small(), 2, out, show=seen.append)
    assert [progress.recorded for progress in seen] == [1, 2]
    assert not parts.exists()
    assert os.sched_getscheduler(0) == scheduling, "the video encoder makes its caller real-time"
    check_dataset(out, episodes=2)
    summary = json.loads((out / "meta" / "recording.json").read_text())
    assert summary["seeds"] == [0, 1] and summary["env"]["task"] == "Lift"

    record(small(), 2, out)  # finished: nothing to do
    with pytest.raises(SimError, match="episodes 2, not 1; choose another folder"):
        record(small(), 1, out)
    with pytest.raises(SimError, match="fps 20, not 10"):
        record(small(fps=10), 2, out)


def test_a_finished_recording_is_extended(tmp_path, one_process):
    out, config = tmp_path / "lift", small(object_spread=0.5)
    record(config, 1, out)
    first = LeRobotDataset("omnistream/lift", root=out)[3]["action"]
    renamed = type(out).rename
    one_process.setattr(type(out), "rename", lambda self, to: renamed(self, to) if self.name != "joined" else 1 / 0)
    with pytest.raises(ZeroDivisionError):  # killed at the worst moment
        record(config, 2, out)
    one_process.setattr(type(out), "rename", renamed)
    seen = []
    record(config, 2, out, show=seen.append)
    assert [progress.recorded for progress in seen] == [2], "nothing is recorded again"
    check_dataset(out, episodes=2)
    assert json.loads((out / "meta" / "recording.json").read_text())["seeds"] == [0, 1]
    assert (LeRobotDataset("omnistream/lift", root=out)[3]["action"] == first).all()
    assert [path.name for path in tmp_path.iterdir()] == ["lift"]


def check_dataset(root, episodes: int) -> None:
    dataset = LeRobotDataset("omnistream/lift", root=root)
    assert dataset.num_episodes == episodes and dataset.fps == 20
    lengths = [dataset.meta.episodes[index]["length"] for index in range(episodes)]
    assert len(dataset) == sum(lengths)
    frame = dataset[0]
    assert frame["task"] == "lift the red cube"
    assert frame["observation.images.agentview"].shape == (3, 64, 64)
    assert frame["observation.state"].shape == (16,) and frame["action"].shape == (7,)
    assert frame["observation.intrinsics.agentview"].shape == (9,)
    assert frame["observation.world_from_camera.agentview"].shape == (16,)
    ends = np.cumsum(lengths) - 1
    done = np.array([bool(value) for value in dataset.hf_dataset["next.done"]])
    assert np.flatnonzero(done).tolist() == ends.tolist()
    assert all(bool(dataset.hf_dataset[int(end)]["next.success"]) for end in ends)


def test_the_dataset_holds_what_was_seen(tmp_path, make_env):
    env = make_env(cameras=["agentview"], image_height_px=64, image_width_px=64, episode_length=6)
    frames = run_episode(env, seed=11)
    write_dataset(env, frames, tmp_path / "set")
    dataset = LeRobotDataset("omnistream/lift", root=tmp_path / "set")
    assert len(dataset) == len(frames) == 6
    for index in (0, 5):
        stored = dataset[index]
        for key in ("observation.state", "action", "observation.world_from_camera.agentview"):
            np.testing.assert_array_equal(stored[key], frames[index][key], err_msg=key)
        image = stored["observation.images.agentview"].permute(1, 2, 0).numpy() * 255
        assert np.abs(image - frames[index]["observation.images.agentview"]).mean() < 12, "lossy, but the same picture"


def test_only_successes_are_kept_and_hopeless_recordings_end(tmp_path, one_process):
    one_process.setattr(recording, "FAILURES_ALLOWED", 1)
    with pytest.raises(SimError, match=r"failed on 2 seeds and succeeded on 0"):
        record(small(episode_length=2), 1, tmp_path / "never")
    assert not (tmp_path / "never").exists()
    assert sorted(path.name for path in (tmp_path / "never.parts").glob("failed-*")) == [
        "failed-00000000",
        "failed-00000001",
    ]


def test_a_broken_episode_leaves_nothing(tmp_path, one_process):
    def broken(env, frames, root):
        root.mkdir()
        (root / "half").touch()
        raise OSError("disk full")

    one_process.setattr(recording, "write_dataset", broken)
    with pytest.raises(OSError, match="disk full"):
        record(small(), 1, tmp_path / "lift")
    assert list((tmp_path / "lift.parts").glob("episode-*")) == [] and not (tmp_path / "lift").exists()


def test_refusals(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(SimError, match="is no recording; choose another folder"):
        record(small(), 1, tmp_path / "mine")
    with pytest.raises(SimError, match="no expert for 'Wipe'"):
        record(RobosuiteEnvConfig(task="Wipe"), 1, tmp_path / "wipe")
    with pytest.raises(SimError, match="at least one camera"):
        record(RobosuiteEnvConfig(cameras=[]), 1, tmp_path / "blind")
    with pytest.raises(SimError, match="depth is not recorded"):
        record(small(depth=True), 1, tmp_path / "deep")
    parts = tmp_path / "busy.parts"
    parts.mkdir()
    with recording._locked(parts), pytest.raises(SimError, match="another recording is under way"):
        record(small(), 1, tmp_path / "busy")


@pytest.mark.slow
def test_several_processes_record_the_same_seeds(tmp_path):
    record(small(), 3, tmp_path / "lift", workers=2)
    check_dataset(tmp_path / "lift", episodes=3)
    assert json.loads((tmp_path / "lift" / "meta" / "recording.json").read_text())["seeds"] == [0, 1, 2]
