"""ROS 1 bags and rosbag2 recordings as frames, with the camera, depth and pose that travel beside the images.

Which topic is what:

image
    ``topic``, or of all sensor_msgs/Image and CompressedImage topics with messages the first by: not named as depth or
    disparity; named as colour (``color``, ``colour``, ``rgb``); not named as infrared; most messages; shortest name.
camera
    the CameraInfo topic ``camera_info`` beside the image topic, its transport suffix (``/compressed``) left off, as ROS
    drivers publish it; for librealsense's ``<stream>/image/data`` it is ``<stream>/info/camera_info``. The first
    message with a focal length holds for the whole recording. K, not P: rays are those of the image as recorded.
depth
    ``depth_topic``, or the first topic named as depth whose images are registered to the colour image: its name says
    ``aligned`` or ``registered``, or it shares the frame_id of the images and no CameraInfo says otherwise. Images of
    another size are not used.
pose
    ``pose_topic``, or the first that speaks of this camera: a PoseStamped topic named ``*pose*`` whose full name says
    ``cam`` and whose namespace holds the image topic (``/camera/pose``), taken as camera to world in the axes of the
    optical frame; or an Odometry, TransformStamped or TFMessage topic with the image's own frame_id as child and
    ``map``, ``odom``, ``world`` or ``earth`` as parent. Others hold the pose of something else, a base, a tracker, and
    are left alone.

Depth and pose belong to an image when their header stamps differ by at most ``tolerance_s``; the nearest is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnistream_core.errors import ConfigError, SourceError
from omnistream_core.sources.base import FrameSource, counts_text, describe_camera, pose_from_numbers
from omnistream_core.sources.camera_info import camera_from_info
from omnistream_core.sources.image_codec import (
    ImageError,
    UnknownEncodingError,
    decode_compressed,
    decode_compressed_depth,
    decode_depth,
    decode_image,
)
from omnistream_core.sources.recording import DamagedRecording, RawMessage, Recording, Topic, open_recording
from omnistream_core.types import CameraModel, Frame

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped",
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/TransformStamped",
    "tf2_msgs/msg/TFMessage",
)
WORLD_FRAMES = ("map", "odom", "world", "earth")
LOOKAHEAD_IMAGES = 16  # images held back while their depth or pose may still come


class RosbagSource(FrameSource):
    """Frames of one image topic of a bag. Which camera, depth and pose go with them: see the module.

    Args:
        path: ``.bag``, ``.mcap``, ``.db3`` or a rosbag2 directory.
        topic: image topic; None to choose by the rule above.
        depth_topic: registered depth; None to choose, "" for none.
        pose_topic: camera-to-world pose of the optical frame; None to choose, "" for none.
        tolerance_s: largest difference of stamps at which depth or pose belong to an image, seconds.

    Raises:
        SourceError: no bag, no image topic, or a topic that the bag lacks; the message lists those it has.
    """

    kind = "rosbag"

    def __init__(
        self,
        path: str | Path,
        *,
        topic: str | None = None,
        depth_topic: str | None = None,
        pose_topic: str | None = None,
        tolerance_s: float = 0.02,
    ) -> None:
        self._path = Path(path)
        self._recording = open_recording(self._path)
        try:
            self.topic = choose_image_topic(self._recording.topics, topic, str(path))
            super().__init__(f"{path}:{self.topic}")
            self.length = self._recording.topics[self.topic].count
            self._tolerance_ns = round(tolerance_s * 1e9)
            self._frame_id = _first_frame_id(self._recording, self.topic)
            self._camera = self._read_camera(self.topic)
            self.depth_topic = self._choose_depth(depth_topic)
            self.pose_topic = self._choose_pose(pose_topic)
        except BaseException:
            self._recording.close()
            raise

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "topic": self.topic,
            "frame_id": self._frame_id,
            "camera": describe_camera(self._camera),
            "camera_info_topic": find_camera_info(self._recording.topics, self.topic),
            "depth_topic": self.depth_topic,
            "pose_topic": self.pose_topic,
            "topics": {
                topic.name: {"type": topic.msgtype, "count": topic.count} for topic in self._recording.topics.values()
            },
        }

    def close(self) -> None:
        self._recording.close()

    def _frames(self) -> Iterator[Frame]:
        if self._camera is None and find_camera_info(self._recording.topics, self.topic):
            self._count(self.ignored, "CameraInfo without focal length")
        delivered = 0
        damage: DamagedRecording | None = None
        matcher = _Matcher(self._tolerance_ns, companions=[t for t in (self.depth_topic, self.pose_topic) if t])
        try:
            for index, message, parsed, matches in matcher.run(self._messages(), self.topic):
                frame = self._frame(index, message, parsed, matches)
                if frame is not None:
                    delivered += 1
                    yield frame
        except DamagedRecording as error:
            damage = error
        if damage is not None:
            raise SourceError(f"{self.name}: truncated after {delivered} frames: {damage}")
        if delivered == 0:
            raise SourceError(f"{self.name}: no frame can be read: {counts_text(self.skipped) or 'no message'}")

    def _messages(self) -> Iterator[tuple[RawMessage, Any]]:
        wanted = {topic for topic in (self.topic, self.depth_topic, self.pose_topic) if topic}
        for message in self._recording.messages(wanted):
            try:
                parsed, trailing = self._recording.deserialize(message)
            except SourceError as error:
                is_image = message.topic == self.topic
                self._count(self.skipped if is_image else self.ignored, "bad message", str(error))
                if is_image:
                    yield message, None
                continue
            if message.topic == self.pose_topic and hasattr(parsed, "transforms"):
                parsed = _child_pose(parsed, self._frame_id)
                if parsed is None:
                    continue
            if trailing and message.topic == self.topic:
                self._count(self.repaired, "trailing bytes trimmed", f"{trailing} bytes after the message")
            yield message, parsed

    def _frame(self, index: int, message: RawMessage, parsed: Any, matches: dict[str, Any]) -> Frame | None:
        try:
            image_HW3 = self._decode(message, parsed)
        except ImageError as error:
            self._count(self.skipped, error.reason, error.detail)
            return None
        except UnknownEncodingError as error:
            raise SourceError(f"{self.name}: {error}") from None
        height, width = image_HW3.shape[:2]
        if self._camera is not None and (self._camera.width_px, self._camera.height_px) != (width, height):
            raise SourceError(
                f"{self.name}: the image is {width}x{height} px, its CameraInfo is for "
                f"{self._camera.width_px}x{self._camera.height_px} px"
            )
        return Frame(
            image_HW3=image_HW3,
            index=index,
            stamp_ns=_stamp_ns(parsed, message),
            frame_id=parsed.header.frame_id,
            camera=self._camera,
            true_depth_m_HW=self._depth(matches.get(self.depth_topic or ""), (height, width)),
            true_world_from_camera_44=self._pose(matches.get(self.pose_topic or "")),
        )

    def _decode(self, message: RawMessage, parsed: Any) -> np.ndarray:
        if message.msgtype.endswith("CompressedImage"):
            return decode_compressed(parsed.data, parsed.format)
        image_HW3 = decode_image(*_layout(parsed))
        if len(parsed.data) > parsed.step * parsed.height:
            self._count(self.repaired, "trailing bytes trimmed", "data longer than step * height")
        return image_HW3

    def _depth(self, parsed: Any, size_hw: tuple[int, int]) -> np.ndarray | None:
        if parsed is None:
            return None
        try:
            is_compressed = parsed.__msgtype__.endswith("CompressedImage")
            depth_HW = (
                decode_compressed_depth(parsed.data, parsed.format) if is_compressed else decode_depth(*_layout(parsed))
            )
        except SourceError as error:
            self._count(self.ignored, "undecodable depth", str(error))
            return None
        if depth_HW.shape != size_hw:
            self._count(self.ignored, "depth of another size", f"{depth_HW.shape} for an image of {size_hw}")
            return None
        return depth_HW

    def _pose(self, parsed: Any) -> np.ndarray | None:
        if parsed is None:
            return None
        pose = _pose_of(parsed)
        if pose is None:
            self._count(self.ignored, "pose that is not finite, or a zero quaternion")
        return pose

    def _read_camera(self, image_topic: str) -> CameraModel | None:
        info_topic = find_camera_info(self._recording.topics, image_topic)
        for parsed in self._peek(info_topic):
            try:
                return camera_from_info(parsed)
            except ConfigError:  # not calibrated
                continue
        return None

    def _peek(self, topic: str | None, limit: int = 100) -> Iterator[Any]:
        """The first messages of a topic that can be read."""
        if topic is None:
            return
        try:
            for number, message in enumerate(self._recording.messages({topic})):
                if number >= limit:
                    return
                yield self._recording.deserialize(message)[0]
        except SourceError:
            return

    def _choose_depth(self, wanted: str | None) -> str | None:
        topics = self._recording.topics
        others = [topic for topic in _image_topics(topics) if topic.name != self.topic]
        if wanted is not None:
            return _named(topics, wanted, others, "depth", str(self._path)) if wanted else None
        for candidate in [topic for topic in others if _is_depth_name(topic.name)]:
            is_compressed = candidate.msgtype.endswith("CompressedImage")
            if is_compressed and not candidate.name.endswith("compressedDepth"):
                continue
            if "aligned" in candidate.name.lower() or "registered" in candidate.name.lower():
                return candidate.name
            if self._shares_camera(candidate.name):
                return candidate.name
        return None

    def _shares_camera(self, depth_topic: str) -> bool:
        if not self._frame_id or _first_frame_id(self._recording, depth_topic) != self._frame_id:
            return False
        other = self._read_camera(depth_topic)
        return other is None or self._camera is None or np.allclose(other.matrix_33, self._camera.matrix_33, atol=0.5)

    def _choose_pose(self, wanted: str | None) -> str | None:
        topics = self._recording.topics
        candidates = [topic for topic in topics.values() if topic.msgtype in POSE_TYPES and topic.count]
        if wanted is not None:
            return _named(topics, wanted, candidates, "pose", str(self._path)) if wanted else None
        return next((topic.name for topic in candidates if self._is_camera_pose(topic)), None)

    def _is_camera_pose(self, topic: Topic) -> bool:
        if topic.msgtype == POSE_TYPES[0]:
            namespace, _, last = topic.name.lower().strip("/").rpartition("/")
            is_near = not namespace or self.topic.lower().strip("/").startswith(f"{namespace}/")
            return "pose" in last and "cam" in topic.name.lower() and is_near
        if not self._frame_id:
            return False
        return any(_child_pose(parsed, self._frame_id) is not None for parsed in self._peek(topic.name))


@dataclass
class _Pending:
    index: int
    message: RawMessage
    parsed: Any
    stamp_ns: int


class _Matcher:
    """Brings images together with the messages of other topics by header stamp, in bounded memory.

    An image waits until each companion topic has shown a message with its stamp, or one past it, or until
    ``LOOKAHEAD_IMAGES`` images wait.
    """

    def __init__(self, tolerance_ns: int, *, companions: list[str]) -> None:
        self._tolerance_ns = tolerance_ns
        self._recent: dict[str, deque[tuple[int, Any]]] = {topic: deque(maxlen=1024) for topic in companions}
        self._waiting: deque[_Pending] = deque()

    def run(
        self, messages: Iterable[tuple[RawMessage, Any]], image_topic: str
    ) -> Iterator[tuple[int, RawMessage, Any, dict[str, Any]]]:
        """(index, image message, parsed image, companion topic -> parsed message) for each image in order."""
        index = 0
        damage: DamagedRecording | None = None
        try:
            for message, parsed in messages:
                if message.topic != image_topic:
                    self._recent[message.topic].append((_stamp_ns(parsed, message), parsed))
                else:
                    if parsed is not None:
                        self._waiting.append(_Pending(index, message, parsed, _stamp_ns(parsed, message)))
                    index += 1
                while self._waiting and self._is_settled(self._waiting[0]):
                    yield self._take()
        except DamagedRecording as error:
            damage = error
        while self._waiting:
            yield self._take()
        if damage is not None:
            raise damage

    def _is_settled(self, pending: _Pending) -> bool:
        if len(self._waiting) > LOOKAHEAD_IMAGES:
            return True
        return all(
            any(stamp == pending.stamp_ns or stamp > pending.stamp_ns + self._tolerance_ns for stamp, _ in recent)
            for recent in self._recent.values()
        )

    def _take(self) -> tuple[int, RawMessage, Any, dict[str, Any]]:
        pending = self._waiting.popleft()
        matches = {}
        for topic, recent in self._recent.items():
            nearest = min(recent, key=lambda entry: abs(entry[0] - pending.stamp_ns), default=None)
            if nearest is not None and abs(nearest[0] - pending.stamp_ns) <= self._tolerance_ns:
                matches[topic] = nearest[1]
            while recent and recent[0][0] < pending.stamp_ns - self._tolerance_ns:
                recent.popleft()
        return pending.index, pending.message, pending.parsed, matches


def choose_image_topic(topics: dict[str, Topic], wanted: str | None, where: str) -> str:
    """The image topic by the rule at the top of the module.

    Raises:
        SourceError: ``wanted`` is not an image topic of the recording, or it has none.
    """
    images = _image_topics(topics)
    if wanted is not None:
        return _named(topics, wanted, images, "image", where)
    usable = [topic for topic in images if not topic.name.endswith("compressedDepth")]
    if not usable:
        types = ", ".join(sorted({topic.msgtype for topic in topics.values()})) or "none"
        raise SourceError(f"{where}: no image topic with messages; the types there: {types}")
    return min(usable, key=_image_rank).name


def find_camera_info(topics: dict[str, Topic], image_topic: str) -> str | None:
    """The CameraInfo topic that belongs to an image topic by the convention of ROS drivers; None without one."""
    base = image_topic
    for suffix in ("/compressed", "/compressedDepth", "/theora"):
        base = base.removesuffix(suffix)
    namespace = base.rpartition("/")[0]
    wanted = [f"{namespace}/camera_info"]
    if base.endswith("/image/data"):
        wanted.append(f"{base.removesuffix('/image/data')}/info/camera_info")
    for name in wanted:
        for topic in topics.values():
            is_info = topic.msgtype == "sensor_msgs/msg/CameraInfo" and topic.count > 0
            if is_info and topic.name.strip("/") == name.strip("/"):
                return topic.name
    return None


def _image_topics(topics: dict[str, Topic]) -> list[Topic]:
    return [topic for topic in topics.values() if topic.msgtype in IMAGE_TYPES and topic.count]


def _image_rank(topic: Topic) -> tuple[bool, bool, bool, int, int, str]:
    name = topic.name.lower()
    is_colour = any(word in name for word in ("color", "colour", "rgb"))
    is_infrared = any(word in name for word in ("infra", "/ir/", "thermal"))
    return _is_depth_name(name), not is_colour, is_infrared, -topic.count, len(name), name


def _is_depth_name(name: str) -> bool:
    return any(word in name.lower() for word in ("depth", "disparity"))


def _named(topics: dict[str, Topic], wanted: str, valid: list[Topic], what: str, where: str) -> str:
    valid_names = [topic.name for topic in valid]
    for name in topics:
        if name.strip("/") == wanted.strip("/") and name in valid_names:
            return name
    there = ", ".join(f"{topic.name} ({topic.count})" for topic in valid) or "none"
    raise SourceError(f"{where}: no {what} topic {wanted!r}; {what} topics there: {there}")


def _first_frame_id(recording: Recording, topic: str) -> str:
    try:
        for message in recording.messages({topic}):
            return str(recording.deserialize(message)[0].header.frame_id)
    except SourceError:
        pass
    return ""


def _layout(parsed: Any) -> tuple[str, int, int, int, int, np.ndarray]:
    return parsed.encoding, parsed.height, parsed.width, parsed.step, parsed.is_bigendian, parsed.data


def _stamp_ns(parsed: Any, message: RawMessage) -> int:
    """Header stamp; where it is zero or there is no header, the time at which the recorder got the message."""
    header = getattr(parsed, "header", None)
    stamp_ns = 0 if header is None else header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
    return stamp_ns or message.log_ns


def _child_pose(parsed: Any, frame_id: str) -> Any:
    """The message, or the one of a TFMessage, in which ``frame_id`` is the child of a world frame; None without one."""
    for stamped in getattr(parsed, "transforms", [parsed]):
        parent = stamped.header.frame_id.strip("/")
        if parent in WORLD_FRAMES and stamped.child_frame_id.strip("/") == frame_id.strip("/"):
            return stamped
    return None


def _pose_of(parsed: Any) -> np.ndarray | None:
    """(4, 4) float64 from a PoseStamped, Odometry or TransformStamped; None where its numbers are no pose."""
    if hasattr(parsed, "transform"):
        t, q = parsed.transform.translation, parsed.transform.rotation
    else:
        pose = getattr(parsed.pose, "pose", parsed.pose)
        t, q = pose.position, pose.orientation
    return pose_from_numbers((t.x, t.y, t.z), (q.w, q.x, q.y, q.z))
