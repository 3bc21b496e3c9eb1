"""Thousands of frames at full speed through the perception node: memory, file descriptors, clean ends.

    .venv/bin/python benchmarks/ros_soak.py --install ros2_ws/install [--frames 20000] [--json FILE]

The next image goes out when the pose of the last one has come back. Prints a line every thousand frames and JSON at the
end; exits with 1 where memory moved by more than 2 % after the first thousand frames, a descriptor was left open, or
the node did not end with code 0.
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
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.qos import QoSProfile

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT / "tests" / "ros", ROOT / "ros2_ws"):
    sys.path.insert(0, str(folder))

from build import installed_environment  # noqa: E402
from ros_harness import TRANSPORT, Peer, Process, Workspace, image_message, info_message, new_domain, picture  # noqa: E402

os.environ.update(TRANSPORT)
SIZE_HW = (96, 128)
SETTLED_FRAMES = 1000
FLAT = 0.02
MOST_UNANSWERED = 30
RELIABLE = QoSProfile(depth=10)


def rss_mb(process: Process) -> float:
    """Resident memory that is the process's own."""
    for line in Path(f"/proc/{process.process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def descriptors(process: Process) -> int:
    """Open file descriptors."""
    return len(list(Path(f"/proc/{process.process.pid}/fd").iterdir()))


def random_checkpoint(folder: Path) -> Path:
    """The tiny preset with random weights: what is looked for here does not depend on them."""
    from omnistream_core.config import preset
    from omnistream_core.model import build_model

    build_model(preset("tiny")).save_pretrained(folder)
    return folder


def start(workspace: Workspace, domain: int, checkpoint: str) -> Process:
    height, width = SIZE_HW
    process = workspace.run(
        "perception_node",
        domain,
        {
            "checkpoint": checkpoint,
            "autostart": True,
            "image_qos": "reliable",
            "warm_up_width": width,
            "warm_up_height": height,
        },
    )
    process.wait_for("configured")
    return process


def listen(peer: Peer) -> list[Any]:
    """Everything is subscribed, so that everything is computed; the poses are counted."""
    from nav_msgs.msg import Odometry
    from nav_msgs.msg import Path as PathMessage
    from sensor_msgs.msg import Image, PointCloud2

    counts: list[Any] = [0]

    def count(_: Any) -> None:
        counts[0] += 1

    peer.node.create_subscription(Odometry, "/perception_node/odometry", count, 10)
    for topic, kind in (
        ("depth/image", Image),
        ("feature_image", Image),
        ("points", PointCloud2),
        ("map", PointCloud2),
    ):
        peer.node.create_subscription(kind, f"/perception_node/{topic}", lambda _: None, 2)
    peer.node.create_subscription(PathMessage, "/perception_node/path", lambda _: None, 2)
    return counts


class Camera:
    """Sends images one by one, each with its CameraInfo, a thirtieth of a second apart by their stamps."""

    def __init__(self, peer: Peer) -> None:
        self._peer, self._sent = peer, 0
        self._pictures = [picture(seed, SIZE_HW) for seed in range(64)]

    def send(self) -> None:
        stamp_ns = 10**18 + self._sent * 33_333_333
        self._peer.publish("camera_info", info_message(SIZE_HW, stamp_ns), RELIABLE)
        self._peer.publish("image_raw", image_message(self._pictures[self._sent % 64], stamp_ns), RELIABLE)
        self._sent += 1

    def send_until(self, answered: Callable[[], bool], patience_s: float) -> int:
        """Send an image, and another each time that ``patience_s`` go by without an answer; how many got none.

        Discovery may lose an image or a CameraInfo, without which the first images are refused.
        """
        for unanswered in range(MOST_UNANSWERED):
            self.send()
            deadline_s = time.monotonic() + patience_s
            while time.monotonic() < deadline_s:
                if answered():
                    return unanswered
                self._peer.executor.spin_once(timeout_sec=0.02)
        raise AssertionError(f"{MOST_UNANSWERED} images without a pose; last: {self._peer.sentence()}")


def is_above(counts: list[int], before: int) -> bool:
    return counts[0] > before


def soak(process: Process, peer: Peer, frames: int) -> dict[str, Any]:
    counts, camera = listen(peer), Camera(peer)
    camera.send_until(lambda: counts[0] > 0, patience_s=2.0)
    samples: list[tuple[int, float, int]] = []
    unanswered = 0
    start_s = time.monotonic()
    for index in range(frames):
        before = counts[0]
        unanswered += camera.send_until(partial(is_above, counts, before), patience_s=30.0)
        if (index + 1) % max(1, min(1000, frames // 10)) == 0:
            samples.append((index + 1, rss_mb(process), descriptors(process)))
            print(
                f"{index + 1} frames, {time.monotonic() - start_s:.0f} s, "
                f"{samples[-1][1]:.1f} MB, {samples[-1][2]} fds",
                flush=True,
            )
            peer.heard["/diagnostics"].clear()
    settled = [sample for sample in samples if sample[0] >= min(SETTLED_FRAMES, frames // 2)]
    memory = [sample[1] for sample in settled]
    seconds = time.monotonic() - start_s
    return {
        "frames": frames,
        "unanswered": unanswered,
        "seconds": round(seconds, 1),
        "hz": round(frames / seconds, 1),
        "memory_mb": [round(memory[0], 1), round(memory[-1], 1)],
        "memory_spread": round((max(memory) - min(memory)) / memory[0], 4),
        "descriptors": [settled[0][2], settled[-1][2]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak test of the perception node.")
    parser.add_argument("--install", type=Path, default=ROOT / "ros2_ws" / "install", help="of the built workspace")
    parser.add_argument("--frames", type=int, default=20000)
    parser.add_argument("--checkpoint", default="", help="bundled name or folder; by default random weights")
    parser.add_argument("--json", type=Path, help="file that receives the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or str(random_checkpoint(Path(folder) / "checkpoint"))
        workspace = Workspace(arguments.install, installed_environment(arguments.install), Path(folder))
        domain = new_domain()
        with Peer(domain) as peer, start(workspace, domain, checkpoint) as process:
            result = soak(process, peer, arguments.frames)
            result["exit_code_sigint"] = process.stop(signal.SIGINT)
        with start(workspace, new_domain(), checkpoint) as process:
            result["exit_code_sigterm"] = process.stop(signal.SIGTERM)
    print(json.dumps(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    is_flat = result["memory_spread"] <= FLAT and result["descriptors"][1] <= result["descriptors"][0]
    sys.exit(0 if is_flat and result["exit_code_sigint"] == result["exit_code_sigterm"] == 0 else 1)


if __name__ == "__main__":
    main()
