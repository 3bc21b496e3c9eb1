"""Plays a recording onto topics, where there is no rosbag2: any bag, video or image folder that the core can read.

The recording's own time is the time: it stands in every header and runs on /clock. A thread plays; the executor serves.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from omnistream_core.errors import SourceError
from omnistream_core.sources import open_source
from omnistream_core.sources.base import FrameSource, counts_text
from omnistream_core.types import Frame
from omnistream_ros import conversions
from omnistream_ros.parameters import ReplaySettings
from omnistream_ros.ros_parameters import ParameterTable
from omnistream_ros.running import run

NODE_NAME = "replay_node"
CLOCK_PERIOD_S = 0.02
INFO_READERS_S = 2.0
SETTLE_S = 0.5  # readers miss what is sent before they know of us, and what they have not read when we end
RECORDED_WORLD = "recorded_world"


class ReplayNode(Node):
    """
    Attributes:
        exit_code: 0, or 1 where the recording broke off.

    Raises:
        SourceError: nothing at ``path`` that can be played.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(NODE_NAME, **arguments)
        self.exit_code = 0
        self._is_playing, self._is_closing = threading.Event(), threading.Event()
        self._source: FrameSource | None = None
        self._thread: threading.Thread | None = None
        self._settings = ParameterTable(self, ReplaySettings, is_free=lambda: False).settings()
        if not self._settings.path:
            raise SourceError("parameter path: a bag, a video or a folder of images is needed")
        logging.getLogger("omnistream_core").addHandler(_ToRos(self))
        self._source = open_source(self._settings.path, topic=self._settings.topic or None)
        qos = QoSProfile(depth=10)
        self._image = self.create_publisher(Image, "image_raw", qos)
        has_camera = self._source.describe().get("camera") is not None  # else nobody is to wait for it
        self._info = self.create_publisher(CameraInfo, "camera_info", qos) if has_camera else None
        self._clock = self.create_publisher(Clock, "/clock", qos) if self._settings.publish_clock else None
        if self._settings.publish_truth:
            self._true_depth = self.create_publisher(Image, "truth/depth", qos)
            self._true_pose = self.create_publisher(PoseStamped, "truth/pose", qos)
        self.create_service(SetBool, "~/play", self._on_play)
        self._message, self._depth_message = Image(), Image()
        if self._settings.start_playing:
            self._is_playing.set()
        self._finished = self.create_guard_condition(_end_process)
        self._pace = _Pace(self._settings.rate)
        self.published = 0
        self._thread = threading.Thread(target=self._run, name="omnistream_replay", daemon=True)
        self._thread.start()

    def destroy_node(self) -> None:
        self._is_closing.set()
        self._is_playing.set()
        if self._thread is not None:
            self._thread.join()
        if self._source is not None:
            self._source.close()
        super().destroy_node()

    def _on_play(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        (self._is_playing.set if request.data else self._is_playing.clear)()
        response.success, response.message = True, "playing" if request.data else "paused"
        return response

    def _run(self) -> None:
        assert self._source is not None
        try:
            self._wait_for_readers()
            while not self._is_closing.is_set():
                self._play_once()
                if not self._settings.loop:
                    break
        except SourceError as error:
            self.exit_code = 1
            self.get_logger().error(f"the recording broke off: {error}")
        if self._is_closing.wait(SETTLE_S):
            return
        self.get_logger().info(f"played {self.published} images{_remarks(self._source)}")
        if self._settings.exit_at_end:
            self._finished.trigger()

    def _wait_for_readers(self) -> None:
        """Of the images; then a little for those of camera_info, which belongs to the first image too."""
        wanted = self._settings.wait_for_readers
        while self._image.get_subscription_count() < wanted and not self._is_closing.wait(0.02):
            pass
        deadline_s = time.monotonic() + INFO_READERS_S
        while self._info and self._info.get_subscription_count() < wanted and time.monotonic() < deadline_s:
            if self._is_closing.wait(0.02):
                return
        if wanted:
            self._is_closing.wait(SETTLE_S)

    def _play_once(self) -> None:
        self._pace.restart()
        for frame, stamp_ns in self._stamped_frames():
            self._wait_until(stamp_ns)
            if self._is_closing.is_set():
                return
            self._publish(frame, stamp_ns)

    def _stamped_frames(self) -> Iterator[tuple[Frame, int]]:
        """Those between ``start_s`` and ``stop_s`` of the recording."""
        assert self._source is not None
        first_ns: int | None = None
        for frame in self._source:
            stamp_ns = frame.stamp_ns
            if stamp_ns is None:
                stamp_ns = round(frame.index / self._settings.frame_rate_hz * 1e9)
            first_ns = stamp_ns if first_ns is None else first_ns
            elapsed_s = (stamp_ns - first_ns) / 1e9
            if elapsed_s > self._settings.stop_s:
                return
            if elapsed_s >= self._settings.start_s:
                yield frame, stamp_ns

    def _wait_until(self, stamp_ns: int) -> None:
        """Sleep until the frame's time, the clock running on; pauses do not count."""
        while not self._is_closing.is_set():
            if not self._is_playing.is_set():
                paused_s = time.monotonic()
                self._is_playing.wait()
                self._pace.shift(time.monotonic() - paused_s)
            left_s = self._pace.seconds_until(stamp_ns)
            self._publish_clock(stamp_ns - max(0, round(left_s * self._settings.rate * 1e9)))
            if left_s <= 0 or self._is_closing.wait(min(left_s, CLOCK_PERIOD_S)):
                return

    def _publish_clock(self, now_ns: int) -> None:
        if self._clock is not None:
            self._clock.publish(Clock(clock=conversions.stamp_message(now_ns)))

    def _publish(self, frame: Frame, stamp_ns: int) -> None:
        header = Header(stamp=conversions.stamp_message(stamp_ns), frame_id=frame.frame_id or self._settings.frame_id)
        if self._info and frame.camera is not None:
            self._info.publish(conversions.info_from_camera(frame.camera, header))
        self._message.header = header
        conversions.fill_image(self._message, frame.image_HW3, "rgb8")
        self._image.publish(self._message)
        self.published += 1
        if self._settings.publish_truth:
            self._publish_truth(frame, header)

    def _publish_truth(self, frame: Frame, header: Header) -> None:
        if frame.true_depth_m_HW is not None:
            unknown_as_nan_HW = np.where(frame.true_depth_m_HW > 0, frame.true_depth_m_HW, np.float32(np.nan))
            self._depth_message.header = header
            conversions.fill_image(self._depth_message, unknown_as_nan_HW, "32FC1")
            self._true_depth.publish(self._depth_message)
        if frame.true_world_from_camera_44 is not None:
            pose = conversions.pose_message(frame.true_world_from_camera_44)
            self._true_pose.publish(PoseStamped(header=Header(stamp=header.stamp, frame_id=RECORDED_WORLD), pose=pose))


def _end_process() -> None:
    """In the executor's thread, which alone may take the node down."""
    raise ExternalShutdownException


class _Pace:
    """When a stamp's turn is, on the monotonic clock."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._start_s = 0.0
        self._first_ns: int | None = None

    def restart(self) -> None:
        self._first_ns = None

    def shift(self, pause_s: float) -> None:
        self._start_s += pause_s

    def seconds_until(self, stamp_ns: int) -> float:
        if self._first_ns is None:
            self._first_ns, self._start_s = stamp_ns, time.monotonic()
        return self._start_s + (stamp_ns - self._first_ns) / 1e9 / self._rate - time.monotonic()


class _ToRos(logging.Handler):
    """Warnings of the core as warnings of the node."""

    def __init__(self, node: Node) -> None:
        super().__init__(logging.WARNING)
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        self._node.get_logger().warning(record.getMessage())


def _remarks(source: FrameSource) -> str:
    parts = {"skipped": source.skipped, "repaired": source.repaired, "ignored": source.ignored}
    return "".join(f"; {what}: {counts_text(counts)}" for what, counts in parts.items() if counts)


def main(args: list[str] | None = None) -> None:
    """Play until the end, SIGINT or SIGTERM."""
    sys.exit(run(ReplayNode, args))


if __name__ == "__main__":
    main()
