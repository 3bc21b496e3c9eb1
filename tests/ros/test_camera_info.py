"""CameraInfo is looked up, parsed when it changes, and never wakes the executor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rclpy.qos import qos_profile_sensor_data
from ros_harness import Peer, info_message
from sensor_msgs.msg import CameraInfo

from omnistream_ros.camera_info import CameraInfoReader


@pytest.fixture
def reader(peer: Peer) -> CameraInfoReader:
    return CameraInfoReader(peer.node, "camera_info", qos_profile_sensor_data)


@pytest.fixture
def send(peer: Peer) -> Callable[[CameraInfo], None]:
    def publish(info: CameraInfo) -> None:
        peer.publish("camera_info", info)
        peer.spin(0.2)

    return publish


def test_the_newest_is_kept_and_parsed_once(reader: CameraInfoReader, send: Callable[[CameraInfo], None]) -> None:
    assert reader.newest() is None
    send(info_message((480, 640), 1))
    first = reader.newest()
    assert first is not None and first.width == 640
    send(info_message((480, 640), 2))
    assert reader.newest() is first
    send(info_message((240, 320), 3))
    send(info_message((120, 160), 4))
    newest = reader.newest()
    assert newest is not None and (newest.width, newest.header.stamp.nanosec) == (160, 4)


def test_it_wakes_nobody_up(reader: CameraInfoReader, peer: Peer) -> None:
    """What an ordinary subscription's callback would take before anybody looks is still there."""
    ordinary = peer.listen("camera_info", CameraInfo, qos_profile_sensor_data)
    peer.publish("camera_info", info_message((480, 640), 1))
    peer.until(lambda: ordinary, 10, "the message of an ordinary subscription")
    assert reader.has_publisher() and reader.newest() == ordinary[0]


def test_closed_it_is_gone(reader: CameraInfoReader, peer: Peer) -> None:
    assert "/camera_info" in [subscription.topic_name for subscription in peer.node.subscriptions]
    reader.close()
    assert "/camera_info" not in [subscription.topic_name for subscription in peer.node.subscriptions]
