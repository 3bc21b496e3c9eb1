"""Teleoperation bags as datasets: every frame holds what a policy would have had, and nothing is written by halves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags import rosbag2
from rosbags.typesys import Stores, get_typestore

pytest.importorskip("lerobot")
pytest.importorskip("datasets")

from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_policy_omnistream.bag_to_dataset import BagLayout, convert, episode
from omnistream_core.errors import SourceError

DURATION = "builtin_interfaces/msg/Duration"
START_NS, MS = 1_700_000_000_000_000_000, 1_000_000
LAYOUT = {
    "cameras": {"front": "/camera/image_raw"},
    "state": ("/joint_states",),
    "commands": ("/arm/command",),
    "task": "push the button",
    "fps": 10,
}


class TeleopBag:
    """A camera, two joints and a command, each at a rate and with a delay of its own."""

    def __init__(self, path: Path) -> None:
        self.types = get_typestore(Stores.ROS2_JAZZY)
        self.path, self.rows = path, []

    def header(self, ms: float) -> Any:
        stamp_ns = START_NS + round(ms * MS)
        stamp = self.types.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return self.types.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")

    def image(self, ms: float, grey: int, size_hw: tuple[int, int] = (48, 64)) -> None:
        height, width = size_hw
        fields = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": width * 3}
        data = np.full(height * width * 3, grey, np.uint8)
        self._add("/camera/image_raw", "sensor_msgs/msg/Image", ms, header=self.header(ms), data=data, **fields)

    def joints(self, ms: float, names: list[str], values: list[float]) -> None:
        arrays = {"position": np.array(values, float), "velocity": np.zeros(0), "effort": np.zeros(0)}
        self._add("/joint_states", "sensor_msgs/msg/JointState", ms, header=self.header(ms), name=names, **arrays)

    def command(self, ms: float, values: list[float]) -> None:
        layout = self.types.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        data = np.array(values, float)
        self._add("/arm/command", "std_msgs/msg/Float64MultiArray", ms, layout=layout, data=data)

    def trajectory(self, ms: float, *points: list[float]) -> None:
        """Of two joints; without points it stops the controller."""
        point, duration = (self.types.types[name] for name in ("trajectory_msgs/msg/JointTrajectoryPoint", DURATION))
        rest = dict.fromkeys(("velocities", "accelerations", "effort"), np.zeros(0))
        now = duration(sec=0, nanosec=0)
        given = [point(positions=np.array(values), time_from_start=now, **rest) for values in points]
        fields = {"header": self.header(ms), "joint_names": ["a", "b"], "points": given}
        self._add("/arm/command", "trajectory_msgs/msg/JointTrajectory", ms, **fields)

    def _add(self, topic: str, msgtype: str, ms: float, **fields: Any) -> None:
        self.rows.append((topic, msgtype, START_NS + round(ms * MS), self.types.types[msgtype](**fields)))

    def write(self) -> Path:
        with rosbag2.Writer(self.path, version=9) as writer:
            links = {}
            for topic, msgtype, log_ns, message in sorted(self.rows, key=lambda row: row[2]):
                if topic not in links:
                    links[topic] = writer.add_connection(topic, msgtype, typestore=self.types)
                writer.write(links[topic], log_ns, self.types.serialize_cdr(message, msgtype))
        return self.path


def teleop(path: Path, *, seconds: float = 2.0, silence_ms: tuple[float, float] = (0, 0), **image: Any) -> TeleopBag:
    """Camera at 30 Hz whose grey counts its images; joint a holds its time, in ms, and b minus that; commands."""
    bag = TeleopBag(path)
    for count in range(round(seconds * 30)):
        bag.image(count * 100 / 3, count, **image)
    for index, ms in enumerate(np.arange(5, seconds * 1e3, 10.0)):
        if not silence_ms[0] < ms < silence_ms[1]:
            order = slice(None) if index % 2 else slice(None, None, -1)  # the order of joints is the driver's affair
            bag.joints(ms, ["a", "b"][order], [ms, -ms][order])
    for ms in np.arange(12, seconds * 1e3, 20.0):
        bag.command(ms, [ms, 2.0, 3.0])
    return bag


def test_a_frame_holds_what_a_policy_would_have_had(tmp_path):
    frames = [frame.values for frame in episode(teleop(tmp_path / "bag").write(), BagLayout(**LAYOUT))]
    times_ms = 12 + 100.0 * np.arange(len(frames))  # the command is the last to begin
    assert len(frames) == 20
    for time_ms, frame in zip(times_ms, frames, strict=True):
        assert frame["observation.images.front"].shape == (48, 64, 3)
        assert frame["observation.images.front"][0, 0, 0] == int(time_ms * 30 / 1e3)
        newest_ms = 5 + 10 * np.floor((time_ms - 5) / 10)
        np.testing.assert_allclose(sorted(frame["observation.state"]), [-newest_ms, newest_ms])
        commanded_ms = 12 + 20 * np.floor((time_ms + 100 - 1e-3 - 12) / 20)  # the last of the period
        np.testing.assert_allclose(frame["action"], [min(commanded_ms, 1992), 2, 3])
        assert frame["task"] == "push the button"
    states = np.array([frame["observation.state"] for frame in frames])
    assert (np.sign(states) == np.sign(states[0])).all(), "columns keep their joint, whatever the order of a message"


def with_trajectories(path: Path, stops_ms: tuple[float, ...] = (), commands: bool = True) -> Path:
    """The bag of ``teleop`` whose commands are trajectories of two points, the last of which is the goal."""
    bag = teleop(path)
    bag.rows = [row for row in bag.rows if row[0] != "/arm/command"]
    for ms in np.arange(12, 2e3, 20.0) if commands else ():
        bag.trajectory(ms, [0, 0], [ms, -ms])
    for ms in stops_ms:
        bag.trajectory(ms)
    return bag.write()


def test_a_stop_is_no_command_and_is_counted(tmp_path, caplog):
    plain = with_trajectories(tmp_path / "plain")
    stopped = with_trajectories(tmp_path / "stopped", (7.0, 500.0, 1995.0))
    expected = [frame.values["action"] for frame in episode(plain, BagLayout(**LAYOUT))]
    assert caplog.messages == [] and expected[0].tolist() == [92, -92]
    actions = [frame.values["action"] for frame in episode(stopped, BagLayout(**LAYOUT))]
    np.testing.assert_array_equal(actions, expected)
    assert caplog.messages == [f"{stopped}: /arm/command: 3 trajectories without points left out"]
    nothing = with_trajectories(tmp_path / "nothing", (500.0,), commands=False)
    with pytest.raises(SourceError, match="nothing: /arm/command has no message with numbers"):
        next(episode(nothing, BagLayout(**LAYOUT)))


def test_bags_become_a_dataset_that_lerobot_reads(tmp_path):
    bags = [teleop(tmp_path / "one").write(), teleop(tmp_path / "two", seconds=1.0).write()]
    layout = BagLayout(**LAYOUT, size_wh=(32, 24))
    frames = convert(bags, layout, tmp_path / "set")
    dataset = LeRobotDataset("local/set", root=tmp_path / "set")
    assert (dataset.num_episodes, dataset.fps, len(dataset)) == (2, 10, frames) and frames == 30
    expected = [frame.values for bag in bags for frame in episode(bag, layout)]
    for index in (0, 7, 29):
        stored = dataset[index]
        np.testing.assert_array_equal(stored["action"], expected[index]["action"])
        np.testing.assert_array_equal(stored["observation.state"], expected[index]["observation.state"])
        image_HW3 = stored["observation.images.front"].permute(1, 2, 0).numpy() * 255
        assert np.abs(image_HW3 - expected[index]["observation.images.front"]).max() < 6
    assert sorted(dataset.meta.features["observation.state"]["names"]) == ["a", "b"]
    assert dataset[0]["task"] == "push the button"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "set", "two"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": ("/joints",)}, r"no state or command topic '/joints' with messages; there are: .*/joint_states \("),
        ({"cameras": {"front": "/cam"}}, r"no image topic '/cam' with messages; there are: /camera/image_raw"),
        ({"state": ("/camera/image_raw",)}, r"no state or command topic '/camera/image_raw'"),
        ({"commands": ()}, "no command topic is named"),
        ({"fps": 0}, "fps is 0"),
    ],
)
def test_missing_topics_are_named_with_those_there(tmp_path, change, message):
    bag = teleop(tmp_path / "bag", seconds=0.3).write()
    with pytest.raises(SourceError, match=message):
        convert([bag], BagLayout(**(LAYOUT | change)), tmp_path / "set")
    assert not list(tmp_path.glob("set*"))


def test_gaps_and_clocks_that_do_not_meet_are_refused(tmp_path):
    gap = teleop(tmp_path / "gap", silence_ms=(700, 1300)).write()
    with pytest.raises(SourceError, match=r"/joint_states has a gap: nothing for 0\.\d+ s from second 0\.68\d of the"):
        convert([gap], BagLayout(**LAYOUT), tmp_path / "set")
    assert convert([gap], BagLayout(**LAYOUT, max_age_s=1.0), tmp_path / "set") == 20
    apart = teleop(tmp_path / "apart", seconds=0.5)
    for ms in (2000, 2100):
        apart.joints(ms, ["a", "b"], [0, 0])
    apart.rows = [row for row in apart.rows if row[0] != "/joint_states" or row[2] > START_NS + 1000 * MS]
    with pytest.raises(SourceError, match=r"/camera/image_raw ends 1\.\d+ s before /joint_states begins.*one clock"):
        convert([apart.write()], BagLayout(**LAYOUT), tmp_path / "other")


def test_bags_that_differ_and_folders_that_exist_are_refused(tmp_path):
    one = teleop(tmp_path / "one", seconds=0.5).write()
    other = teleop(tmp_path / "other", seconds=0.5, size_hw=(24, 32)).write()
    with pytest.raises(SourceError, match=r"other: observation.images.front is \(24, 32, 3\).*before \(48, 64, 3\)"):
        convert([one, other], BagLayout(**LAYOUT), tmp_path / "set")
    assert not list(tmp_path.glob("set*"))
    with pytest.raises(SourceError, match="exists; choose another folder"):
        convert([one], BagLayout(**LAYOUT), one)


def test_the_command_says_what_it_did_and_what_is_wrong(tmp_path):
    bag = teleop(tmp_path / "bag", seconds=0.5).write()
    command = [sys.executable, "-m", "lerobot_policy_omnistream.bag_to_dataset", str(bag), "--task", "push", "--fps=10"]
    topics = ["--camera=front=/camera/image_raw", "--state=/joint_states", "--command=/arm/command"]
    done = subprocess.run([*command, *topics, f"--out={tmp_path / 'set'}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 episodes, 5 frames at 10 Hz" in done.stdout, done.stderr
    wrong = subprocess.run(
        [*command, *topics[1:], "--camera=x", "--out=y"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2 and "error: --camera 'x' is not NAME=TOPIC" in wrong.stderr


def test_a_recorded_walk_with_a_camera_in_the_hand(tmp_path, realdata):
    """No robot, but real pictures and poses: where the hand was is the state, where it went next the command."""
    bag = realdata / "ros_bags" / "converted_hololens" / "hololens.bag"
    topics = {"cameras": {"hand": "/camera/color/image_raw/compressed"}, "state": ("/camera/pose",)}
    layout = BagLayout(
        **LAYOUT | topics | {"commands": ("/camera/pose",), "size_wh": (90, 60), "max_age_s": 1.0, "fps": 9}
    )
    frames = convert([bag], layout, tmp_path / "set")
    dataset = LeRobotDataset("local/set", root=tmp_path / "set")
    states, actions = (np.array(dataset.hf_dataset[key]) for key in ("observation.state", "action"))
    assert len(dataset) == frames > 5 and states.shape == (frames, 7)
    np.testing.assert_allclose(np.linalg.norm(states[:, 3:], axis=1), 1, atol=1e-3)
    np.testing.assert_array_equal(actions[:-1], states[1:])
    assert dataset[3]["observation.images.hand"].std() > 0.1
    with pytest.raises(SourceError, match=r"no state or command topic '/joint_states'.*/camera/pose \(geometry_msgs"):
        convert([bag], BagLayout(**LAYOUT | {"cameras": topics["cameras"]}), tmp_path / "other")
