"""Processes under test, and a peer in this process that plays their camera and listens to them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

ROOT = Path(__file__).resolve().parents[2]
WORKSPACE = ROOT / "ros2_ws"
PROFILE = WORKSPACE / "src" / "omnistream_bringup" / "config" / "fastdds_profile.xml"
TRANSPORT = {
    "FASTDDS_DEFAULT_PROFILES_FILE": str(PROFILE),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "ROS_PYTHON_CHECK_FIELDS": "1",
}
START_TIMEOUT_S = 120.0  # a loaded machine takes half a minute to import torch
_domains = itertools.count(os.getpid())


def new_domain() -> int:
    """A ROS_DOMAIN_ID of this test's own."""
    return next(_domains) % 100 + 1


class Process:
    """A process of the workspace in its own domain, its log kept in a file."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, env=env, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until the log holds ``text``."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text()}"
            assert time.monotonic() < deadline, f"{text!r} did not come within {timeout_s} s:\n{self.text()}"
            time.sleep(0.02)

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, how: signal.Signals = signal.SIGINT, timeout_s: float = 30.0) -> int:
        """Send a signal; the exit code."""
        if self.is_alive():
            self.process.send_signal(how)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 30.0) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end within {timeout_s} s:\n{self.text()}") from None

    def kill(self) -> None:
        if self.is_alive():
            self.process.kill()
        self.process.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


class Workspace:
    """The built workspace: starts its executables, with ``transport`` in their environment."""

    def __init__(self, install: Path, env: dict[str, str], logs: Path, transport: dict[str, str] = TRANSPORT) -> None:
        self.install, self._env, self._logs, self._transport = install, env, logs, transport
        self._numbers = itertools.count()

    def environment(self, domain: int, **extra: str) -> dict[str, str]:
        logs = {"ROS_LOG_DIR": str(self._logs)}
        return self._env | self._transport | {"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"} | logs | extra

    def run(
        self,
        executable: str,
        domain: int,
        parameters: dict[str, Any] | None = None,
        *,
        env: dict[str, str] | None = None,
        package: str = "omnistream_ros",
    ) -> Process:
        """``ros2 run PACKAGE EXECUTABLE --ros-args -p ...``."""
        path = self.install / package / "lib" / package / executable
        command = [str(path), *ros_arguments(parameters or {})]
        return self._start(executable, command, self.environment(domain, **(env or {})))

    def script(self, path: Path, domain: int, *arguments: str) -> Process:
        """A Python file with the workspace's messages on its path."""
        return self._start(path.stem, [sys.executable, str(path), *arguments], self.environment(domain))

    def _start(self, name: str, command: list[str], env: dict[str, str]) -> Process:
        return Process(command, env, self._logs / f"{next(self._numbers):03d}_{name}.log")


def ros_arguments(parameters: dict[str, Any]) -> list[str]:
    """``--ros-args -p name:=value ...``"""
    arguments = [f"-p {name}:={_yaml(value)}".split(" ", 1) for name, value in parameters.items()]
    return ["--ros-args", *itertools.chain.from_iterable(arguments)]


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_yaml(entry) for entry in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


class Peer:
    """A node of this process in its own context: publishes as a camera, keeps what it hears."""

    def __init__(self, domain: int, name: str = "peer") -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node(name, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[Any]] = {}
        self._publishers: dict[str, Any] = {}
        self.listen("/diagnostics", DiagnosticArray)

    def listen(self, topic: str, kind: type, qos: QoSProfile | int = 10) -> list[Any]:
        """Subscribe; the list that fills."""
        messages = self.heard.setdefault(topic, [])
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def publish(self, topic: str, message: Any, qos: QoSProfile = qos_profile_sensor_data) -> None:
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(type(message), topic, qos)
            self.until(lambda: self._publishers[topic].get_subscription_count() > 0, 20, f"a reader of {topic}")
        self._publishers[topic].publish(message)

    def forget_publisher(self, topic: str) -> None:
        self.node.destroy_publisher(self._publishers.pop(topic))

    def spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.01)

    def until(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        """Spin until ``condition`` holds; its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s; last: {self.sentence()}"
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def call(self, kind: type, service: str, request: Any, timeout_s: float = 60.0) -> Any:
        client = self.node.create_client(kind, service)
        try:
            self.until(client.service_is_ready, START_TIMEOUT_S, service)
            future = client.call_async(request)
            self.until(future.done, timeout_s, f"answer of {service}")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def change_state(self, label: str, node: str = "/perception_node") -> bool:
        request = ChangeState.Request(transition=Transition(label=label))
        return bool(self.call(ChangeState, f"{node}/change_state", request).success)

    def state(self, node: str = "/perception_node") -> str:
        return str(self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label)

    def set_parameters(self, node: str = "/perception_node", **values: Any) -> list[Any]:
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        )
        return list(self.call(SetParameters, f"{node}/set_parameters", request).results)

    def figures(self, camera: int = 0) -> dict[str, str]:
        """The newest diagnostics of one camera."""
        for array_ in reversed(self.heard["/diagnostics"]):
            if len(array_.status) > camera:
                return {pair.key: pair.value for pair in array_.status[camera].values}
        return {}

    def sentence(self, camera: int = 0) -> str:
        for array_ in reversed(self.heard["/diagnostics"]):
            if len(array_.status) > camera:
                return str(array_.status[camera].message)
        return ""

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def image_message(
    pixels: np.ndarray, stamp_ns: int, *, encoding: str = "rgb8", frame_id: str = "camera_optical"
) -> Image:
    pixels = np.ascontiguousarray(pixels)
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.step = pixels.nbytes // pixels.shape[0]
    message.data = array("B", pixels.tobytes())
    message.header.frame_id = frame_id
    message.header.stamp.sec, message.header.stamp.nanosec = stamp_ns // 10**9, stamp_ns % 10**9
    return message


def info_message(size_hw: tuple[int, int], stamp_ns: int, *, focal_px: float = 100.0) -> CameraInfo:
    height, width = size_hw
    info = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [focal_px, 0.0, width / 2 - 0.5, 0.0, focal_px, height / 2 - 0.5, 0.0, 0.0, 1.0]
    info.header.frame_id = "camera_optical"
    info.header.stamp.sec, info.header.stamp.nanosec = stamp_ns // 10**9, stamp_ns % 10**9
    return info


def picture(seed: int, size_hw: tuple[int, int] = (96, 128)) -> np.ndarray:
    """(H, W, 3) uint8: a smooth random scene, moved a little by ``seed``."""
    height, width = size_hw
    y, x = np.mgrid[:height, :width] / 16.0
    waves = [np.sin(x * (1 + c / 3) + seed / 5 + c) + np.cos(y * (1 + c / 4) - seed / 7) for c in range(3)]
    return ((np.stack(waves, -1) + 2) * 63).astype(np.uint8)
