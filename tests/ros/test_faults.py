"""What goes wrong on robots. One node lives through all of it."""

from __future__ import annotations

import signal
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nav_msgs.msg import Odometry
from ros_harness import Peer, Process, Workspace, image_message, info_message, new_domain, picture
from sensor_msgs.msg import Image, PointCloud2
from std_srvs.srv import SetBool

ODOMETRY = "/perception_node/odometry"
SMALL = {"warm_up_width": 128, "warm_up_height": 96}
STEP_NS = 33_000_000


class Robot:
    """A camera in front of the node under test."""

    def __init__(self, process: Process, peer: Peer) -> None:
        self.process, self.peer = process, peer
        self.stamp_ns = 1_700_000_000_000_000_000

    def next_image(self, size_hw: tuple[int, int] = (96, 128), **changes: Any) -> Image:
        self.stamp_ns += STEP_NS
        fields = {key: changes.pop(key) for key in ("frame_id", "encoding") if key in changes}
        message = image_message(picture(self.stamp_ns // STEP_NS % 50, size_hw), self.stamp_ns, **fields)
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    def send(self, message: Image | None = None) -> None:
        self.peer.publish("image_raw", message or self.next_image())

    def poses(self) -> list[Odometry]:
        return self.peer.heard[ODOMETRY]

    def works(self, size_hw: tuple[int, int] = (96, 128), **changes: Any) -> Odometry:
        """Send good images until one comes back, which tells that the node is well; that pose."""
        before = len(self.poses())
        for _ in range(20):
            self.send(self.next_image(size_hw, **changes))
            for _ in range(100):
                self.peer.spin(0.02)
                if len(self.poses()) > before:
                    pose = self.poses()[-1].pose.pose
                    values = (pose.position.x, pose.position.y, pose.position.z, pose.orientation.w)
                    assert np.isfinite(values).all()
                    return self.poses()[-1]
        raise AssertionError(f"no pose came back:\n{self.process.text()}")

    def figure(self, key: str) -> str:
        """From diagnostics written from now on."""
        self.peer.heard["/diagnostics"].clear()
        self.peer.until(self.peer.figures, 15, "diagnostics")
        return self.peer.figures()[key]

    def resets(self) -> int:
        return int(self.figure("resets"))

    def close(self) -> None:
        self.process.stop()
        self.peer.close()


def start(workspace: Workspace, domain: int, checkpoint: Path, **parameters: Any) -> Process:
    node = workspace.run(
        "perception_node", domain, {"checkpoint": str(checkpoint), "autostart": True} | SMALL | parameters
    )
    node.wait_for("configured")
    return node


@pytest.fixture(scope="module")
def shared(workspace: Workspace, checkpoint: Path) -> Iterator[Robot]:
    domain = new_domain()
    peer = Peer(domain)
    peer.listen(ODOMETRY, Odometry)
    robot = Robot(start(workspace, domain, checkpoint), peer)
    robot.works()
    yield robot
    robot.close()


@pytest.fixture
def robot(shared: Robot) -> Iterator[Robot]:
    """The shared node, checked to be well before and after each fault."""
    shared.works()
    yield shared
    shared.works()
    assert shared.process.is_alive()
    assert "Traceback" not in shared.process.text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": array("B")}, "empty image"),
        ({"step": 5}, "step shorter than a row"),
        ({"height": 200}, "data shorter than step * height"),
        ({"encoding": "rgb24"}, "unknown encoding"),
        ({"encoding": ""}, "unknown encoding"),
        ({"height": 4_000_000_000, "width": 4_000_000_000}, "size out of range"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_malformed_images_are_refused_by_name(robot: Robot, changes: dict[str, Any], reason: str) -> None:
    before = len(robot.poses())
    robot.send(robot.next_image(**changes))
    robot.peer.until(lambda: reason in robot.peer.figures().get("refused", ""), 15, reason)
    assert len(robot.poses()) == before


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("nan", "= (nan,"), ("zero focal length", "= (0.0,"), ("infinite", "= (inf,"), ("zero size", "size 0x0 px")],
)
def test_camera_info_without_sense_is_refused(robot: Robot, fault: str, reason: str) -> None:
    info = info_message((96, 128), robot.stamp_ns)
    if fault == "zero size":
        info.width = info.height = 0
    else:
        info.k[0] = {"nan": np.nan, "zero focal length": 0.0, "infinite": np.inf}[fault]
    for _ in range(5):  # best effort: the first may come before the reader is there
        robot.peer.publish("camera_info", info)
        robot.works()
    robot.process.wait_for("camera_info refused: ", 10)
    refusals = [line for line in robot.process.text().splitlines() if "camera_info refused: " in line]
    assert any(reason in line for line in refusals), refusals


def test_a_change_of_size_resets_once_and_goes_on(robot: Robot) -> None:
    before = robot.resets()
    for _ in range(3):
        robot.works((120, 160))
    assert robot.resets() == before + 1
    assert robot.figure("last reset") == "image size changed from 128x96 to 160x120 px"
    robot.works()


def test_a_new_camera_frame_resets_once(robot: Robot) -> None:
    before = robot.resets()
    robot.works(frame_id="other")
    robot.works(frame_id="other")
    assert robot.resets() == before + 1
    assert "'other'" in robot.figure("last reset")
    robot.works()


def test_other_intrinsics_reset_once(robot: Robot) -> None:
    robot.peer.publish("camera_info", info_message((96, 128), robot.stamp_ns, focal_px=100.0))
    robot.peer.spin(0.3)
    robot.works()
    before = robot.resets()
    robot.peer.publish("camera_info", info_message((96, 128), robot.stamp_ns, focal_px=150.0))
    robot.peer.spin(0.3)
    robot.works()
    robot.works()
    assert robot.resets() == before + 1
    assert "intrinsics changed" in robot.figure("last reset")


def test_a_ten_second_gap_resets_once(robot: Robot) -> None:
    before = robot.resets()
    robot.stamp_ns += 10_000_000_000
    robot.works()
    robot.works()
    assert robot.resets() == before + 1
    assert robot.figure("last reset").startswith("gap of 10.0 s")


def test_time_that_jumps_back_resets_once(robot: Robot) -> None:
    before = robot.resets()
    robot.stamp_ns -= 60_000_000_000
    robot.works()
    robot.works()
    assert robot.resets() == before + 1
    assert "time jumped back by" in robot.figure("last reset")


def test_stragglers_are_dropped_and_counted(robot: Robot) -> None:
    resets, dropped = robot.resets(), int(robot.figure("dropped out of order"))
    late = robot.next_image()
    robot.works()
    poses = len(robot.poses())
    robot.send(late)
    robot.peer.spin(1.0)
    assert len(robot.poses()) == poses
    assert int(robot.figure("dropped out of order")) == dropped + 1
    assert robot.resets() == resets


def test_resets_are_said_once_in_the_log(robot: Robot) -> None:
    said = robot.process.text().count("the stream begins anew: gap")
    robot.stamp_ns += 30_000_000_000
    for _ in range(5):
        robot.works()
    assert robot.process.text().count("the stream begins anew: gap") <= said + 1


def test_a_camera_that_is_killed_and_comes_back(robot: Robot) -> None:
    robot.peer.forget_publisher("image_raw")
    robot.peer.heard["/diagnostics"].clear()
    robot.peer.until(lambda: "no image on /image_raw" in robot.peer.sentence(), 15, "a sentence on the silence")
    robot.works()


def test_illegal_transitions_are_refused(robot: Robot) -> None:
    assert not robot.peer.change_state("configure")
    assert not robot.peer.change_state("cleanup")
    assert not robot.peer.change_state("no such transition")
    assert robot.peer.state() == "active"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points_stride": 100}, ("points_stride", "1", "64", "100")),
        ({"max_gap_s": -1.0}, ("max_gap_s", "0.05", "3600")),
        ({"points_min_depth_m": 50.0}, ("points_min_depth_m", "smaller")),
        ({"window": 4}, ("window", "takes effect at configure")),
    ],
)
def test_illegal_parameters_are_refused_with_the_valid_range(robot: Robot, changes: dict, words: tuple) -> None:
    (result,) = robot.peer.set_parameters(**changes)
    assert not result.successful
    assert all(word in result.reason for word in words), result.reason


def test_live_parameters_take_effect_in_their_turn(robot: Robot) -> None:
    clouds = robot.peer.listen("/perception_node/points", PointCloud2)
    robot.peer.until(lambda: robot.works() and clouds, 30, "a cloud")
    assert robot.peer.set_parameters(points_stride=4)[0].successful
    robot.peer.until(lambda: robot.works() and clouds[-1].width <= 24 * 32, 30, "a smaller cloud")
    robot.peer.set_parameters(points_stride=2, points_organized=True)
    robot.peer.until(
        lambda: robot.works() and (clouds[-1].height, clouds[-1].width) == (48, 64), 30, "rows and columns"
    )
    robot.peer.set_parameters(points_organized=False)


def test_deactivated_it_is_silent_and_keeps_the_stream(robot: Robot) -> None:
    fill = robot.figure("cache frames")
    assert robot.peer.change_state("deactivate")
    before, resets = len(robot.poses()), robot.resets()
    for _ in range(5):
        robot.send()
        robot.peer.spin(0.1)
    assert len(robot.poses()) == before
    assert robot.peer.change_state("activate")
    robot.works()
    assert robot.resets() == resets
    assert int(robot.figure("cache frames").split()[0]) >= int(fill.split()[0])


def test_disabled_it_ignores_images(robot: Robot) -> None:
    assert robot.peer.call(SetBool, "/perception_node/set_enabled", SetBool.Request(data=False)).success
    before = len(robot.poses())
    robot.send()
    robot.peer.spin(0.5)
    assert len(robot.poses()) == before
    assert "disabled" in (robot.figure("topic") and robot.peer.sentence())
    assert robot.peer.call(SetBool, "/perception_node/set_enabled", SetBool.Request(data=True)).success


def test_cleaned_up_it_can_be_configured_again(robot: Robot) -> None:
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        assert robot.peer.change_state(transition), transition
    robot.peer.until(lambda: robot.works(), 30, "a pose")
    assert robot.figure("resets") == "0"


def test_a_reader_that_never_reads_stops_nobody(robot: Robot, workspace: Workspace) -> None:
    domain = robot.peer.context.get_domain_id()
    with workspace.script(Path(__file__).with_name("observer.py"), domain, "/dev/null", "1000000") as reader:
        reader.wait_for("listening")
        robot.works()
        reader.process.send_signal(signal.SIGSTOP)
        for _ in range(60):
            robot.works()
        reader.process.send_signal(signal.SIGCONT)


def test_a_missing_checkpoint_fails_the_transition_with_the_reason(workspace: Workspace, checkpoint: Path) -> None:
    domain = new_domain()
    with (
        Peer(domain) as peer,
        workspace.run("perception_node", domain, {"checkpoint": "/no/such/folder"} | SMALL) as node,
    ):
        assert not peer.change_state("configure")
        node.wait_for("cannot configure: no checkpoint '/no/such/folder'", 10)
        assert peer.state() == "unconfigured"
        assert peer.set_parameters(checkpoint=str(checkpoint))[0].successful
        assert peer.change_state("configure") and peer.change_state("activate")
        peer.node.create_publisher(Image, "image_raw", 10)
        peer.until(
            lambda: "no image ever arrived" in peer.sentence(), 15, "a sentence on the matched, silent publisher"
        )
        assert "FASTDDS_DEFAULT_PROFILES_FILE" in peer.sentence()
        assert node.stop(signal.SIGTERM) == 0


def test_illegal_parameters_at_the_start_end_it_with_a_sentence(workspace: Workspace) -> None:
    with workspace.run("perception_node", new_domain(), {"window": 0}) as node:
        assert node.wait(120) == 2
        assert "window" in node.text() and "1 to 4096" in node.text()
        assert "Traceback" not in node.text()
