"""Small bags, written with the writers of the rosbags library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import mcap.writer
import numpy as np
import pytest
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_typestore

START_NS = 1_700_000_000_000_000_000
KINDS = ("bag", "db3", "mcap")


class Bag:
    """Collects (topic, type, stamp, message) and writes them as one of ``KINDS``."""

    def __init__(self, kind: str) -> None:
        self.kind, self.is_ros1 = kind, kind == "bag"
        self.types = get_typestore(Stores.ROS1_NOETIC if self.is_ros1 else Stores.ROS2_HUMBLE)
        self.entries: list[tuple[str, str, int, Any]] = []
        self.extra_bytes = b""

    def new(self, name: str, **fields: Any) -> Any:
        return self.types.types[name](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        stamp = self.new("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        seq = {"seq": 0} if self.is_ros1 else {}
        return self.new("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id, **seq)

    def image(self, topic: str, index: int, pixels: np.ndarray, encoding: str, **changes: Any) -> None:
        stamp_ns = changes.pop("stamp_ns", START_NS + index * 100_000_000)
        pixels = np.ascontiguousarray(pixels)
        fields = {
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "encoding": encoding,
            "is_bigendian": 0,
            "step": pixels.nbytes // max(1, pixels.shape[0]),
            "data": pixels.view(np.uint8).reshape(-1),
            **changes,
        }
        header = self.header(stamp_ns, fields.pop("frame_id", "camera_optical"))
        self.add(topic, "sensor_msgs/msg/Image", stamp_ns, header=header, **fields)

    def jpeg(self, topic: str, index: int, image_HW3: np.ndarray, data: bytes | None = None) -> None:
        stamp_ns = START_NS + index * 100_000_000
        encoded = cv2.imencode(".jpg", image_HW3[..., ::-1])[1].reshape(-1)
        data_X = encoded if data is None else np.frombuffer(data, np.uint8)
        header = self.header(stamp_ns, "camera_optical")
        self.add(topic, "sensor_msgs/msg/CompressedImage", stamp_ns, header=header, format="jpeg", data=data_X)

    def camera_info(
        self, topic: str, size_wh: tuple[int, int], k: list[float], index: int = 0, *, binning: int = 0
    ) -> None:
        names = "DKRP" if self.is_ros1 else "dkrp"
        values = (np.zeros(5), np.array(k, float), np.eye(3).reshape(-1), np.zeros(12))
        roi = self.new("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        stamp_ns = START_NS + index * 100_000_000
        self.add(
            topic,
            "sensor_msgs/msg/CameraInfo",
            stamp_ns,
            header=self.header(stamp_ns, "camera_optical"),
            height=size_wh[1],
            width=size_wh[0],
            distortion_model="plumb_bob",
            binning_x=binning,
            binning_y=binning,
            roi=roi,
            **dict(zip(names, values, strict=True)),
        )

    def _pose(self, translation: tuple[float, ...], xyzw: tuple[float, ...]) -> Any:
        point = self.new("geometry_msgs/msg/Point", **dict(zip("xyz", translation, strict=True)))
        quaternion = self.new("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", xyzw, strict=True)))
        return self.new("geometry_msgs/msg/Pose", position=point, orientation=quaternion)

    def pose(self, topic: str, index: int, translation: tuple[float, ...], xyzw: tuple[float, ...]) -> None:
        stamp_ns = START_NS + index * 100_000_000
        header = self.header(stamp_ns, "map")
        self.add(topic, "geometry_msgs/msg/PoseStamped", stamp_ns, header=header, pose=self._pose(translation, xyzw))

    def transform(self, topic: str, index: int, parent: str, child: str, translation: tuple[float, ...]) -> None:
        stamp_ns = START_NS + index * 100_000_000
        vector = self.new("geometry_msgs/msg/Vector3", **dict(zip("xyz", translation, strict=True)))
        turn = self.new("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
        stamped = self.new(
            "geometry_msgs/msg/TransformStamped",
            header=self.header(stamp_ns, parent),
            child_frame_id=child,
            transform=self.new("geometry_msgs/msg/Transform", translation=vector, rotation=turn),
        )
        self.add(topic, "tf2_msgs/msg/TFMessage", stamp_ns, transforms=[stamped])

    def add(self, topic: str, msgtype: str, stamp_ns: int, **fields: Any) -> None:
        self.entries.append((topic, msgtype, stamp_ns, self.new(msgtype, **fields)))

    def write(self, folder: Path) -> Path:
        path = folder / ("recording.bag" if self.is_ros1 else f"recording_{self.kind}")
        with self._writer(path) as writer:
            connections: dict[str, Any] = {}
            for topic, msgtype, stamp_ns, message in self.entries:
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, msgtype, typestore=self.types)
                serialize = self.types.serialize_ros1 if self.is_ros1 else self.types.serialize_cdr
                writer.write(connections[topic], stamp_ns, bytes(serialize(message, msgtype)) + self.extra_bytes)
        return path

    def write_chunked_mcap(self, path: Path, profile: str, *, finish: bool = True) -> Path:
        """As Foxglove's tools write it: compressed chunks with checksums; without an end if not ``finish``."""
        with path.open("wb") as stream:
            writer = mcap.writer.Writer(stream, chunk_size=1 << 18)
            writer.start(profile=profile)
            channels: dict[str, int] = {}
            for topic, msgtype, stamp_ns, message in self.entries:
                if topic not in channels:
                    text = self.types.generate_msgdef(msgtype, ros_version=2)[0]
                    schema = writer.register_schema(msgtype, "ros2msg", text.encode())
                    channels[topic] = writer.register_channel(topic, "cdr", schema)
                data = bytes(self.types.serialize_cdr(message, msgtype))
                writer.add_message(channels[topic], stamp_ns, data, stamp_ns)
            if finish:
                writer.finish()
        return path

    def _writer(self, path: Path) -> Any:
        if self.is_ros1:
            return rosbag1.Writer(path)
        plugin = rosbag2.StoragePlugin.MCAP if self.kind == "mcap" else rosbag2.StoragePlugin.SQLITE3
        return rosbag2.Writer(path, version=9, storage_plugin=plugin)


@pytest.fixture
def new_bag() -> Callable[[str], Bag]:
    return Bag


@pytest.fixture
def scene() -> SimpleNamespace:
    """Pictures in which a swap of colours, rows or columns shows."""

    def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
        image_HW3 = np.zeros((height, width, 3), np.uint8)
        image_HW3[:, : width // 2] = (200, 40 + index, 20)
        image_HW3[: height // 2, width // 2 :] = (10, 60, 220)
        return image_HW3

    return SimpleNamespace(picture=picture, start_ns=START_NS, kinds=KINDS)
