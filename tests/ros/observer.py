"""Run as a process: hears everything that one perception node says and leaves it in a file as plain arrays.

observer.py OUT POSES    ends when POSES odometry messages and half a second more have come
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage

from omnistream_msgs.msg import FeatureMap, StreamStatus

DEPTH = QoSProfile(depth=50)
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TOPICS = {
    "depth/image": Image,
    "depth/camera_info": CameraInfo,
    "depth_mm/image": Image,
    "depth_mm/camera_info": CameraInfo,
    "confidence": Image,
    "points": PointCloud2,
    "odometry": Odometry,
    "path": PathMessage,
    "features": FeatureMap,
    "feature_image": Image,
    "map": PointCloud2,
    "status": StreamStatus,
}


def plain(value: Any) -> Any:
    """A message as dictionaries, lists, arrays and numbers."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return np.array(value) if hasattr(value, "typecode") or isinstance(value, np.ndarray) else value


def main() -> None:
    out, poses = Path(sys.argv[1]), int(sys.argv[2])
    rclpy.init()
    node = Node("observer")
    heard: dict[str, list[Any]] = {name: [] for name in (*TOPICS, "/tf", "/tf_static", "/diagnostics")}

    def listen(kind: type, topic: str, name: str, qos: QoSProfile) -> None:
        node.create_subscription(kind, topic, lambda message: heard[name].append(plain(message)), qos)

    for name, kind in TOPICS.items():
        listen(kind, f"/perception_node/{name}", name, DEPTH)
    listen(TFMessage, "/tf", "/tf", DEPTH)
    listen(TFMessage, "/tf_static", "/tf_static", LATCHED)
    listen(DiagnosticArray, "/diagnostics", "/diagnostics", DEPTH)
    print("listening", flush=True)
    deadline, end = time.monotonic() + 180, None
    while time.monotonic() < (end or deadline):
        rclpy.spin_once(node, timeout_sec=0.05)
        if end is None and len(heard["odometry"]) >= poses:
            end = time.monotonic() + 1.5
    out.write_bytes(pickle.dumps(heard))
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
