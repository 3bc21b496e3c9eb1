"""What the perception node adds to the time of the model: a camera, the node and a reader as three processes.

    .venv/bin/python benchmarks/ros_latency.py --install ros2_ws/install [--seconds 20] [--json FILE]

The model is a stand-in that sleeps for a given time, so that what remains is the node and its transport: an image's age
when its depth has arrived, less the model's step. In the first row a relay takes the node's place, which publishes a
depth image of the same size for each image and does nothing else: the least that rclpy takes on this machine. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT / "tests" / "ros", ROOT / "ros2_ws"):
    sys.path.insert(0, str(folder))

from build import installed_environment  # noqa: E402
from ros_harness import TRANSPORT, Process, Workspace, image_message, info_message, new_domain, picture  # noqa: E402

SIZE_HW, RATE_HZ = (480, 640), 30.0
TRANSPORT_HERE = TRANSPORT | {"ROS_PYTHON_CHECK_FIELDS": "0"}  # as on a robot; the checks are for tests


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table.

    Attributes:
        name: in the table.
        step_ms: of the stand-in for the model.
        topics: that the reader reads; the last one is timed.
        node: process between camera and reader: ``node`` or ``relay``.
        reader: ``keeps`` the memory of its messages as the node does, or gives it back as glibc does by ``default``.
    """

    name: str
    step_ms: int = 0
    topics: tuple[str, ...] = ("depth/image",)
    node: str = "node"
    reader: str = "keeps"


CASES = (
    Case(name="relay", node="relay"),
    Case(name="depth"),
    Case(name="depth, reader's memory not kept", reader="default"),
    Case(name="depth and points", topics=("depth/image", "points")),
    Case(name="depth, model of 20 ms", step_ms=20),
    Case(name="depth, model of 100 ms", step_ms=100),
)


class StandIn:
    """A session whose step is a sleep; what it predicts is always the same."""

    def __init__(self, step_s: float, log: Path) -> None:
        from omnistream_core.types import CameraModel, Prediction

        height, width = SIZE_HW
        self._step_s, self._log = step_s, log.open("w")
        self._frames = 0
        self.model = SimpleNamespace(config=SimpleNamespace(backbone=SimpleNamespace(depth=8)))
        self.stats = SimpleNamespace(cache_bytes=0)
        camera = CameraModel(width_px=width, height_px=height, fx_px=500, fy_px=500, cx_px=width / 2, cy_px=height / 2)
        self._fixed: dict[str, Any] = {
            "features_hwD": np.zeros((6, 8, 192), np.float32),
            "cls_D": np.zeros(192, np.float32),
            "depth_m_HW": np.tile(np.linspace(1, 5, width, dtype=np.float32), (height, 1)),
            "confidence_HW": np.full(SIZE_HW, 2, np.float32),
            "model_rays_hw6": np.zeros((6, 8, 6), np.float32),
            "world_from_camera_44": np.eye(4),
            "fov_xy_rad": (1.1, 0.9),
            "camera": camera,
        }
        self._prediction = Prediction

    def step_many(self, frames: dict[int, Any]) -> dict[int, Any]:
        start_ns = time.time_ns()
        time.sleep(self._step_s)
        predictions = {stream: self._predict(frame) for stream, frame in frames.items()}
        print(next(iter(frames.values())).stamp_ns, time.time_ns() - start_ns, file=self._log, flush=True)
        return predictions

    def _predict(self, frame: Any) -> Any:
        self._frames += 1
        return self._prediction(
            index=frame.index,
            stream_index=self._frames,
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            **self._fixed,
        )

    def reset(self, streams: Any = None) -> None:
        self._frames = 0

    def fill(self, stream: int) -> int:
        return min(self._frames, 17)


def node_process(step_ms: str, log: str) -> None:
    """The node with the stand-in."""
    from omnistream_ros.perception_node import main

    sys.argv = sys.argv[:1]
    main(
        ["node", "--ros-args", "-p", "autostart:=true"],
        session_factory=lambda _: StandIn(float(step_ms) / 1e3, Path(log)),
    )


def relay_process(_: str, log: str) -> None:
    """In the node's place: an image comes, a depth image goes, nothing between."""
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    from omnistream_ros.running import run

    depth = image_message(np.ones(SIZE_HW, np.float32), 0, encoding="32FC1")

    def make() -> Node:
        node = Node("perception_node")
        publisher = node.create_publisher(Image, "~/depth/image", 5)

        def hand_on(image: Any) -> None:
            depth.header = image.header
            publisher.publish(depth)
            stamps_ns.append(image.header.stamp.sec * 10**9 + image.header.stamp.nanosec)

        node.create_subscription(Image, "image_raw", hand_on, qos_profile_sensor_data)
        print("configured", flush=True)
        return node

    stamps_ns: list[int] = []
    code = run(make)
    Path(log).write_text("".join(f"{stamp_ns} 0\n" for stamp_ns in stamps_ns))
    sys.exit(code)


def camera_process(seconds: str) -> None:
    """A camera at 30 Hz: the stamp is the time at which the message is handed to the middleware."""
    import rclpy
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CameraInfo, Image

    rclpy.init()
    node = Node("camera")
    images = node.create_publisher(Image, "image_raw", qos_profile_sensor_data)
    infos = node.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
    message, info = image_message(picture(0, SIZE_HW), 0), info_message(SIZE_HW, 0, focal_px=500.0)
    while images.get_subscription_count() == 0:
        time.sleep(0.05)
    time.sleep(1.0)
    start_s, count = time.monotonic(), round(float(seconds) * RATE_HZ)
    for index in range(count):
        time.sleep(max(0.0, start_s + index / RATE_HZ - time.monotonic()))
        stamp_ns = time.time_ns()
        for header in (message.header, info.header):
            header.stamp.sec, header.stamp.nanosec = stamp_ns // 10**9, stamp_ns % 10**9
        images.publish(message)  # in the order of image_transport's CameraPublisher
        infos.publish(info)
    print(f"sent {count}", flush=True)
    rclpy.try_shutdown()


def reader_process(out: str, memory: str, *topics: str) -> None:
    """When which stamp arrived on the last of the topics."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.node import Node
    from sensor_msgs.msg import Image, PointCloud2

    from omnistream_ros.running import keep_freed_memory

    if memory == "keeps":
        keep_freed_memory()
    rclpy.init()
    node = Node("reader")
    arrivals: list[tuple[int, int]] = []

    def arrived(message: Any) -> None:
        arrivals.append((message.header.stamp.sec * 10**9 + message.header.stamp.nanosec, time.time_ns()))

    for topic in topics:
        kind = PointCloud2 if topic == "points" else Image
        callback = arrived if topic == topics[-1] else lambda _: None
        node.create_subscription(kind, f"/perception_node/{topic}", callback, 10)
    print("reading", flush=True)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    Path(out).write_text(json.dumps(arrivals))


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one case."""

    case: str
    sent: int
    received: int
    output_hz: float
    added_ms_p50: float
    added_ms_p95: float
    age_ms_p95: float
    age_ms_growth: float
    node_cpu_ms: float


def measure(workspace: Workspace, folder: Path, case: Case, seconds: float) -> Row:
    domain, here = new_domain(), Path(__file__)
    steps, arrivals = folder / "steps", folder / "arrivals"
    with (
        workspace.script(here, domain, case.node, str(case.step_ms), str(steps)) as node,
        workspace.script(here, domain, "reader", str(arrivals), case.reader, *case.topics) as reader,
    ):
        node.wait_for("configured")
        reader.wait_for("reading")
        before_s = cpu_seconds(node)
        with workspace.script(here, domain, "camera", str(seconds)) as camera:
            sent = _sent(camera, seconds)
        time.sleep(0.5)
        cpu_s = cpu_seconds(node) - before_s
        reader.stop(signal.SIGINT)
        assert node.stop(signal.SIGINT) == 0, node.text()
    return _row(case, sent, steps, json.loads(arrivals.read_text()), cpu_s)


def cpu_seconds(process: Process) -> float:
    """Processor time of a process so far, which does not depend on what else the machine does."""
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sent(camera: Process, seconds: float) -> int:
    camera.wait_for("sent", seconds + 120)
    return int(camera.text().split("sent ")[1].split()[0])


def _row(case: Case, sent: int, steps: Path, arrivals: list[list[int]], cpu_s: float) -> Row:
    step_ns = {int(stamp): int(value) for stamp, value in (line.split() for line in steps.read_text().splitlines())}
    settled = arrivals[len(arrivals) // 10 :]
    age_ms = np.array([(arrived - stamp) / 1e6 for stamp, arrived in settled])
    added_ms = np.array([(arrived - stamp - step_ns[stamp]) / 1e6 for stamp, arrived in settled])
    half = len(age_ms) // 2
    duration_s = (arrivals[-1][1] - arrivals[0][1]) / 1e9
    return Row(
        case=case.name,
        sent=sent,
        received=len(arrivals),
        output_hz=(len(arrivals) - 1) / duration_s,
        added_ms_p50=float(np.percentile(added_ms, 50)),
        added_ms_p95=float(np.percentile(added_ms, 95)),
        age_ms_p95=float(np.percentile(age_ms, 95)),
        age_ms_growth=float(np.median(age_ms[half:]) - np.median(age_ms[:half])),
        node_cpu_ms=cpu_s * 1e3 / len(step_ns),
    )


def conditions() -> str:
    """What the figures hold for."""
    from omnistream_core.bench.machine import machine  # not in the processes that are measured

    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{machine()}, {os.cpu_count()} cores, load average {load}; {SIZE_HW[1]}x{SIZE_HW[0]} rgb8 at "
        f"{RATE_HZ:g} Hz, depth 32FC1, cloud float32 at stride 2."
    )


def markdown(rows: list[Row]) -> str:
    lines = [
        "| what is read | sent | received | rate | added p50 | added p95 | age p95 | growth of age | CPU of the node |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.case} | {row.sent} | {row.received} | {row.output_hz:.1f} Hz | {row.added_ms_p50:.1f} ms | "
            f"{row.added_ms_p95:.1f} ms | {row.age_ms_p95:.1f} ms | {row.age_ms_growth:+.1f} ms | "
            f"{row.node_cpu_ms:.1f} ms/image |"
        )
    return "\n".join(lines)


def main() -> None:
    processes: dict[str, Callable[..., None]] = {
        "node": node_process,
        "relay": relay_process,
        "camera": camera_process,
        "reader": reader_process,
    }
    if len(sys.argv) > 1 and sys.argv[1] in processes:
        processes[sys.argv[1]](*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description="Latency that the perception node adds to the model's.")
    parser.add_argument("--install", type=Path, default=ROOT / "ros2_ws" / "install", help="of the built workspace")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row")
    parser.add_argument("--json", type=Path, help="file that receives the figures")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        env = installed_environment(arguments.install)
        workspace = Workspace(arguments.install, env, Path(folder), transport=TRANSPORT_HERE)
        for case in CASES:
            rows.append(measure(workspace, Path(folder), case, arguments.seconds))
            print(rows[-1], file=sys.stderr, flush=True)
    print(f"{conditions()}\n\n{markdown(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": conditions(), "rows": [vars(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
