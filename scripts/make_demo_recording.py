"""Render the demo's recorded camera stream: one held-out clip of the procedural world as an MCAP file.

    python scripts/make_demo_recording.py

Topics under /camera: image_raw/compressed (JPEG), camera_info, depth/image_rect/compressedDepth (every second frame,
PNG, millimetres) and camera_pose (the optical frame in the world of the first camera). Stamps at 10 Hz from 1 s on.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from omnistream_core.evaluation.geometry import clip_frames
from omnistream_core.geometry import matrix_to_quaternion
from omnistream_core.pretraining.world import HELD_OUT_SEED, WorldConfig, render_clips
from omnistream_core.types import Frame

STORE = get_typestore(Stores.ROS2_JAZZY)
SEED = HELD_OUT_SEED + 1017
START_NS = 1_000_000_000
TOPICS = {
    "image": ("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage"),
    "info": ("/camera/camera_info", "sensor_msgs/msg/CameraInfo"),
    "depth": ("/camera/depth_registered/image_rect/compressedDepth", "sensor_msgs/msg/CompressedImage"),
    "pose": ("/camera/camera_pose", "geometry_msgs/msg/PoseStamped"),
}


def make(kind: str, **fields: Any) -> Any:
    """A ROS message by its short name."""
    package, name = kind.split("/")
    return STORE.types[f"{package}/msg/{name}"](**fields)


def header(frame: Frame) -> Any:
    seconds, nanoseconds = divmod(START_NS + (frame.stamp_ns or 0), 1_000_000_000)
    stamp = make("builtin_interfaces/Time", sec=seconds, nanosec=nanoseconds)
    return make("std_msgs/Header", stamp=stamp, frame_id=frame.frame_id)


def image_message(frame: Frame) -> Any:
    _, data = cv2.imencode(".jpg", frame.image_HW3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return make(
        "sensor_msgs/CompressedImage", header=header(frame), format="rgb8; jpeg compressed bgr8", data=data.ravel()
    )


def depth_message(frame: Frame) -> Any:
    """A PNG of millimetres behind the 12 bytes that compressed_depth_image_transport puts first."""
    assert frame.true_depth_m_HW is not None
    _, png = cv2.imencode(
        ".png", np.round(frame.true_depth_m_HW * 1000).astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )
    data = np.concatenate((np.frombuffer(struct.pack("<iff", 0, 0.0, 0.0), np.uint8), png.ravel()))
    return make("sensor_msgs/CompressedImage", header=header(frame), format="16UC1; compressedDepth png", data=data)


def info_message(frame: Frame) -> Any:
    camera = frame.camera
    assert camera is not None
    k = [camera.fx_px, 0, camera.cx_px - 0.5, 0, camera.fy_px, camera.cy_px - 0.5, 0, 0, 1]
    region = make("sensor_msgs/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return make(
        "sensor_msgs/CameraInfo",
        header=header(frame),
        height=camera.height_px,
        width=camera.width_px,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array(k, np.float64),
        r=np.eye(3).ravel(),
        p=np.array([*k[:3], 0, *k[3:6], 0, *k[6:], 0], np.float64),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def pose_message(frame: Frame) -> Any:
    pose_44 = torch.as_tensor(frame.true_world_from_camera_44)
    w, x, y, z = matrix_to_quaternion(pose_44[:3, :3]).tolist()
    position = make("geometry_msgs/Point", **dict(zip("xyz", pose_44[:3, 3].tolist(), strict=True)))
    pose = make(
        "geometry_msgs/Pose", position=position, orientation=make("geometry_msgs/Quaternion", x=x, y=y, z=z, w=w)
    )
    world = make("std_msgs/Header", stamp=header(frame).stamp, frame_id="world")
    return make("geometry_msgs/PoseStamped", header=world, pose=pose)


def write(frames: list[Frame], path: Path) -> None:
    """One MCAP file without its rosbag2 folder."""
    makers = {"image": image_message, "info": info_message, "depth": depth_message, "pose": pose_message}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "demo"
        with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connections = {
                n: writer.add_connection(topic, kind, typestore=STORE) for n, (topic, kind) in TOPICS.items()
            }
            for frame in frames:
                for name, connection in connections.items():
                    if name == "depth" and frame.index % 2:
                        continue
                    data = STORE.serialize_cdr(makers[name](frame), connection.msgtype)
                    writer.write(connection, START_NS + (frame.stamp_ns or 0), data)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(folder.glob("*.mcap")), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("omnistream_core/assets/demo.mcap"))
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    world = WorldConfig(frames=arguments.frames, height_px=240, width_px=320)
    write(list(clip_frames(render_clips([arguments.seed], world), 0)), arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
