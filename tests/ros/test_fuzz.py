"""Random malformed messages: the node neither dies nor publishes a pose that is not finite."""

from __future__ import annotations

import signal
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nav_msgs.msg import Odometry
from ros_harness import Peer, Process, Workspace, image_message, new_domain, picture
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from omnistream_core.sources.image_codec import IMAGE_ENCODINGS

BURST = 25
TOPICS = {"raw": "image_raw", "compressed": "image_raw/compressed"}
SIDES = st.one_of(st.sampled_from([96, 128, 120, 160, 17]), st.integers(0, 300), st.integers(0, 2**32 - 1))
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
STAMPS = st.one_of(
    st.tuples(st.integers(1000, 1010), st.integers(0, 10**9 - 1)),
    st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)),
)
JPEG, PNG = (cv2.imencode(suffix, picture(3))[1].tobytes() for suffix in (".jpg", ".png"))


@st.composite
def headers(draw: Any, message: Any) -> Any:
    message.header.stamp.sec, message.header.stamp.nanosec = draw(STAMPS)
    message.header.frame_id = draw(st.one_of(st.just("camera"), TEXT))
    return message


@st.composite
def images(draw: Any) -> Image:
    encoding = draw(st.one_of(st.sampled_from(IMAGE_ENCODINGS), TEXT))
    height, width = draw(SIDES), draw(SIDES)
    step = draw(st.one_of(st.just(min(width * draw(st.integers(1, 4)), 2**32 - 1)), SIDES))
    size = draw(st.one_of(st.just(min(step * height, 200_000)), st.integers(0, 3000)))
    data = array("B", bytes([draw(st.integers(0, 255))])) * size
    message = Image(height=height, width=width, encoding=encoding, step=step, data=data)
    message.is_bigendian = draw(st.integers(0, 255))
    return draw(headers(message))


@st.composite
def compressed_images(draw: Any) -> CompressedImage:
    whole = draw(st.sampled_from([JPEG, PNG]))
    start, end = sorted((draw(st.integers(0, len(whole))), draw(st.integers(0, len(whole)))))
    data = draw(st.one_of(st.just(whole), st.just(whole[start:end]), st.binary(max_size=200)))
    return draw(headers(CompressedImage(format=draw(st.one_of(st.just("jpeg"), TEXT)), data=array("B", data))))


@st.composite
def camera_infos(draw: Any) -> CameraInfo:
    numbers = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, -1.0, 64.0, 100.0]))
    info = CameraInfo(height=draw(SIDES), width=draw(SIDES), distortion_model=draw(TEXT))
    info.k = draw(st.lists(numbers, min_size=9, max_size=9))
    info.d = draw(st.lists(numbers, max_size=8))
    info.binning_x, info.binning_y = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 3))
    info.roi.x_offset, info.roi.width, info.roi.height = draw(SIDES), draw(SIDES), draw(SIDES)
    return draw(headers(info))


class Target:
    """One node with a peer that sends it anything and looks at every position that comes back."""

    def __init__(self, process: Process, peer: Peer, transport: str) -> None:
        self.process, self.peer, self.topic, self.sent = process, peer, TOPICS[transport], 0
        self.poses = peer.listen("/perception_node/odometry", Odometry, 100)
        self.clouds = peer.listen("/perception_node/points", PointCloud2, 10)

    def send(self, messages: list[Any]) -> None:
        for message in messages:
            self.peer.publish("camera_info" if isinstance(message, CameraInfo) else self.topic, message)
            self.peer.spin(0.002)
            self.sent += 1
        self.check()

    def check(self) -> None:
        assert self.process.is_alive(), self.process.text()
        for odometry in self.poses:
            pose = odometry.pose.pose
            q = pose.orientation
            assert np.isfinite([pose.position.x, pose.position.y, pose.position.z, q.x, q.y, q.z, q.w]).all()
        for cloud in self.clouds:
            assert np.isfinite(np.frombuffer(cloud.data, np.float32).reshape(-1, 5)[:, :3]).all()
        self.poses.clear()
        self.clouds.clear()

    def works(self) -> None:
        """A good image still gives a pose."""
        for attempt in range(30):
            message: Any = image_message(picture(0), (2_000_000_000 - attempt * 60) * 10**9)
            if self.topic.endswith("compressed"):
                message = CompressedImage(header=message.header, format="png", data=array("B", PNG))
            self.peer.publish(self.topic, message)
            self.peer.spin(0.5)
            if self.poses:
                return
        raise AssertionError(self.process.text())


@pytest.fixture(scope="module", params=list(TOPICS))
def target(request: pytest.FixtureRequest, workspace: Workspace, checkpoint: Path) -> Iterator[Target]:
    domain = new_domain()
    small = {"warm_up_width": 128, "warm_up_height": 96}
    parameters = {"checkpoint": str(checkpoint), "autostart": True, "transport": request.param}
    with Peer(domain) as peer, workspace.run("perception_node", domain, parameters | small) as process:
        process.wait_for("configured")
        yield Target(process, peer, request.param)
        assert process.stop(signal.SIGTERM) == 0, process.text()


def fuzz(target: Target, messages: int) -> None:
    kinds = st.one_of(images() if target.topic == "image_raw" else compressed_images(), camera_infos())

    @settings(
        max_examples=messages // BURST,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(kinds, min_size=BURST, max_size=BURST))
    def bombard(burst: list[Any]) -> None:
        target.send(burst)

    bombard()
    target.works()
    target.peer.heard["/diagnostics"].clear()
    target.peer.until(target.peer.figures, 15, "diagnostics")
    figures = target.peer.figures()
    print(f"\n{target.sent} messages on {target.topic} and camera_info: {figures}")
    assert "could not be processed" not in target.process.text(), target.process.text()
    assert int(figures["received"]) > 0.3 * target.sent
    assert len(figures["refused"]) > 1


def test_a_few_hundred_malformed_messages(target: Target) -> None:
    fuzz(target, 250)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_malformed_messages(target: Target) -> None:
    """Five thousand for each transport."""
    fuzz(target, 5000)
