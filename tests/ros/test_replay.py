"""The player: order, time, loop, limits, pause."""

from __future__ import annotations

import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from ros_harness import Peer, Workspace, new_domain, picture
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from omnistream_ros import conversions

COUNT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without stamps: the player gives them 10 Hz."""
    path = tmp_path_factory.mktemp("images")
    for index in range(COUNT):
        cv2.imwrite(str(path / f"{index:04d}.png"), picture(index)[..., ::-1])
    return path


def stamps_s(images: list[Image]) -> list[float]:
    return [round(conversions.stamp_ns_of(image.header.stamp) / 1e9, 3) for image in images]


def test_it_plays_every_image_in_its_own_time_and_ends(workspace: Workspace, folder: Path) -> None:
    domain = new_domain()
    parameters = {
        "path": str(folder),
        "frame_rate_hz": 10.0,
        "rate": 0.5,
        "start_s": 0.5,
        "stop_s": 1.5,
        "wait_for_readers": 1,
    }
    with Peer(domain) as peer, workspace.run("replay_node", domain, parameters) as player:
        images, clock = peer.listen("image_raw", Image, 50), peer.listen("/clock", Clock, 100)
        peer.until(lambda: images, 60, "the first image")
        assert peer.node.count_publishers("camera_info") == 0, "without intrinsics nobody is to wait for them"
        peer.until(lambda: not player.is_alive(), 120, "the end")
        assert player.wait() == 0
        peer.spin(0.3)
        assert stamps_s(images) == [round(0.5 + i / 10, 3) for i in range(11)]
        np.testing.assert_array_equal(conversions.decode(images[0]), picture(5))
        times = [conversions.stamp_ns_of(message.clock) / 1e9 for message in clock]
        assert times == sorted(times) and times[-1] == pytest.approx(1.5, abs=0.01)
        assert len(times) > len(images), "the clock runs on between images"


def test_it_loops_pauses_and_ends_by_signal(workspace: Workspace, folder: Path) -> None:
    domain = new_domain()
    parameters = {"path": str(folder), "frame_rate_hz": 10.0, "rate": 5.0, "loop": True, "start_playing": False}
    with Peer(domain) as peer, workspace.run("replay_node", domain, parameters) as player:
        images = peer.listen("image_raw", Image, 50)
        peer.call(SetBool, "/replay_node/play", SetBool.Request(data=True))
        peer.until(lambda: len(images) > COUNT + 2, 60, "the second round")
        assert any(later < earlier for earlier, later in zip(stamps_s(images), stamps_s(images)[1:], strict=False))
        assert peer.call(SetBool, "/replay_node/play", SetBool.Request(data=False)).message == "paused"
        peer.spin(0.3)
        before = len(images)
        peer.spin(0.7)
        assert len(images) == before
        assert player.stop(signal.SIGTERM) == 0, player.text()


def test_nothing_to_play_is_said_in_a_sentence(workspace: Workspace) -> None:
    with workspace.run("replay_node", new_domain(), {"path": "/no/such/bag"}) as player:
        assert player.wait(120) == 2
        assert "/no/such/bag: no such file or folder" in player.text()
        assert "Traceback" not in player.text()
