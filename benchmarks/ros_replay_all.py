"""Recordings through replay_node into perception_node: counts, and the reconstructed clouds as pictures.

    .venv/bin/python benchmarks/ros_replay_all.py RECORDING... --install ros2_ws/install --out out/ros [--rate 1.0]

A folder with rgb/*.jpg and intrinsics.json is written as a bag first. One node takes all of them, cleaned up and
configured anew in between. Prints a Markdown table; leaves NAME.ply and NAME.png of each map in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT / "tests" / "ros", ROOT / "ros2_ws", ROOT / "ros2_ws" / "src" / "omnistream_ros"):
    sys.path.insert(0, str(folder))

from build import installed_environment  # noqa: E402
from ros_harness import START_TIMEOUT_S, TRANSPORT, Peer, Workspace, new_domain  # noqa: E402

RATE_HZ, START_NS = 10.0, 1_600_000_000_000_000_000
PARAMETERS = {"map_voxel_m": 0.03, "map_update_s": 0.0, "map_stride": 2, "map_period_s": 0.2, "points_max_depth_m": 8.0}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recording."""

    name: str
    played: int
    received: int
    processed: int
    dropped: int
    refused: str
    published: int
    heard: int
    resets: int
    step_ms: str
    latency_ms: str
    points: int


def write_bag(folder: Path, path: Path) -> None:
    """JPEGs and their intrinsics as a rosbag2 recording; stamps are invented, 10 Hz."""
    from rosbags import rosbag2
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_JAZZY)
    make, intrinsics = types.types, json.loads((folder / "intrinsics.json").read_text())
    with rosbag2.Writer(path, version=9) as writer:
        image_link, info_link = (
            writer.add_connection(f"/camera/{topic}", f"sensor_msgs/msg/{kind}", typestore=types)
            for topic, kind in (("image_raw/compressed", "CompressedImage"), ("camera_info", "CameraInfo"))
        )
        for index, file in enumerate(sorted((folder / "rgb").glob("*.jpg"))):
            stamp_ns = START_NS + round(index / RATE_HZ * 1e9)
            stamp = make["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            header = make["std_msgs/msg/Header"](stamp=stamp, frame_id="camera_optical_frame")
            data = np.frombuffer(file.read_bytes(), np.uint8)
            image = make["sensor_msgs/msg/CompressedImage"](header=header, format="jpeg", data=data)
            for link, message in ((info_link, _info(make, header, intrinsics)), (image_link, image)):
                writer.write(link, stamp_ns, types.serialize_cdr(message, message.__msgtype__))


def _info(make: Any, header: Any, intrinsics: dict[str, Any]) -> Any:
    fx, fy, cx, cy = (intrinsics[name] for name in ("fx", "fy", "cx", "cy"))
    return make["sensor_msgs/msg/CameraInfo"](
        header=header,
        height=intrinsics["height"],
        width=intrinsics["width"],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1.0]),
        r=np.eye(3).reshape(-1),
        p=np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1.0, 0]),
        binning_x=0,
        binning_y=0,
        roi=make["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


class Bench:
    """The node, and a peer that listens to it."""

    def __init__(self, workspace: Workspace, checkpoint: str) -> None:
        from nav_msgs.msg import Odometry
        from sensor_msgs.msg import PointCloud2

        self._workspace, self._domain = workspace, new_domain()
        self.peer = Peer(self._domain)
        self._node = workspace.run("perception_node", self._domain, {"checkpoint": checkpoint} | PARAMETERS)
        self._maps: list[PointCloud2] = []
        self._poses = 0
        self.peer.node.create_subscription(PointCloud2, "/perception_node/map", self._keep_newest, 10)
        self.peer.node.create_subscription(Odometry, "/perception_node/odometry", self._count, 50)

    def _keep_newest(self, message: Any) -> None:
        self._maps[:] = [message]

    def _count(self, _: Any) -> None:
        self._poses += 1

    def play(self, recording: Path, rate: float) -> tuple[Row, np.ndarray]:
        """The counts and the (n, 4) map: x y z metres, packed rgb."""
        self._maps.clear()
        self._poses = 0
        assert self.peer.change_state("configure") and self.peer.change_state("activate"), self._node.text()
        parameters = {"path": str(recording), "rate": rate, "wait_for_readers": 1}
        with self._workspace.run("replay_node", self._domain, parameters) as player:
            self.peer.until(lambda: not player.is_alive(), 900, "the end of the recording")
            assert player.wait() in (0, 1), player.text()
            played = int(player.text().split("played ")[1].split()[0]) if "played " in player.text() else -1
            print(player.text().strip().splitlines()[-1], file=sys.stderr, flush=True)
        self.peer.spin(2.5)
        figures = self.peer.figures()
        assert self.peer.change_state("deactivate") and self.peer.change_state("cleanup"), self._node.text()
        cloud = (
            np.frombuffer(self._maps[0].data, np.float32).reshape(-1, 4) if self._maps else np.empty((0, 4), np.float32)
        )
        row = Row(
            name=recording.name,
            played=played,
            **{name: int(figures[name]) for name in ("received", "processed", "published", "resets")},
            refused=figures["refused"],
            dropped=int(figures["dropped for a newer image"]) + int(figures["dropped out of order"]),
            heard=self._poses,
            step_ms=figures["step ms p50 p95"],
            latency_ms=figures["latency ms p50 p95"],
            points=len(cloud),
        )
        return row, cloud

    def __enter__(self) -> Bench:
        self.peer.until(lambda: self.peer.heard["/diagnostics"], START_TIMEOUT_S, "the node")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.peer.close()
        if kind is not None:
            self._node.kill()
        elif self._node.stop() != 0:
            raise RuntimeError(self._node.text())


def save_picture(cloud: np.ndarray, path: Path, voxel_m: float = PARAMETERS["map_voxel_m"]) -> None:
    """The map from behind the first camera and from above, ray-cast by Open3D without any GPU; beside it as PLY."""
    import open3d

    o3d: Any = open3d  # its stubs know neither NumPy arrays nor lists as arguments
    centres = cloud[:, :3].astype(np.float32)
    packed = cloud[:, 3].copy().view("<u4")
    colours = np.stack([(packed >> shift) & 255 for shift in (16, 8, 0)], -1).astype(np.uint8)
    points = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(centres.astype(np.float64)))
    points.colors = o3d.utility.Vector3dVector(colours / 255)
    o3d.io.write_point_cloud(str(path.with_suffix(".ply")), points)

    scene = o3d.t.geometry.RaycastingScene()
    corners, faces = _octahedra(centres, 0.7 * voxel_m)
    scene.add_triangles(o3d.core.Tensor(corners), o3d.core.Tensor(faces))
    middle = np.median(centres, axis=0)
    reach = max(1.0, float(np.percentile(np.linalg.norm(centres - middle, axis=1), 90)))
    views = []
    for eye, up in ((np.array([-0.7, 0.35, 0.5]) * reach, [0, 0, 1]), (middle + [-0.1, 0, 2.4 * reach], [1, 0, 0])):
        rays = scene.create_rays_pinhole(60.0, list(map(float, middle)), list(map(float, eye)), up, 800, 600)
        hit = scene.cast_rays(rays)
        faces_hit, normals = hit["primitive_ids"].numpy().astype(np.int64), hit["primitive_normals"].numpy()
        is_hit = np.isfinite(hit["t_hit"].numpy())
        light = 0.6 + 0.4 * np.abs(normals @ np.array([0.3, 0.4, 0.87]))
        shaded = colours[np.minimum(faces_hit // 8, len(colours) - 1)] * light[..., None]
        views.append(np.where(is_hit[..., None], shaded, 255).astype(np.uint8))
    o3d.io.write_image(str(path), o3d.geometry.Image(np.ascontiguousarray(np.concatenate(views, axis=1))))


def _octahedra(centres_n3: np.ndarray, radius_m: float) -> tuple[np.ndarray, np.ndarray]:
    """(6 n, 3) float32 corners and (8 n, 3) uint32 triangles: one small solid a point."""
    offsets = radius_m * np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    shape = np.array([[x, y, z] for x in (0, 3) for y in (1, 4) for z in (2, 5)], np.uint32)
    corners = (centres_n3[:, None] + offsets).reshape(-1, 3)
    faces = (6 * np.arange(len(centres_n3), dtype=np.uint32)[:, None, None] + shape).reshape(-1, 3)
    return corners, faces


def markdown(rows: list[Row]) -> str:
    names = list(Row.__dataclass_fields__)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(str(getattr(row, name)) for name in names) + " |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Replay recordings through the perception node.")
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--install", type=Path, default=ROOT / "ros2_ws" / "install", help="of the built workspace")
    parser.add_argument("--checkpoint", default="omnistream-tiny")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "ros")
    parser.add_argument("--rate", type=float, default=1.0, help="speed of playing over speed of recording")
    parser.add_argument("--json", type=Path, help="file that receives the figures")
    arguments = parser.parse_args()
    os.environ.update(TRANSPORT)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, clouds = [], {}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(arguments.install, installed_environment(arguments.install), Path(folder))
        with Bench(workspace, arguments.checkpoint) as bench:
            for recording in arguments.recordings:
                if (recording / "intrinsics.json").exists():
                    write_bag(recording, Path(folder) / recording.name)
                    recording = Path(folder) / recording.name
                row, cloud = bench.play(recording, arguments.rate)
                print(row, file=sys.stderr, flush=True)
                rows.append(row)
                clouds[row.name] = cloud
    print(markdown(rows), flush=True)
    if arguments.json:
        figures = {"checkpoint": arguments.checkpoint, "rate": arguments.rate, "rows": [vars(row) for row in rows]}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    for name, cloud in clouds.items():
        if len(cloud):
            save_picture(cloud, arguments.out / f"{name}.png")


if __name__ == "__main__":
    main()
