"""The workspace is built from nothing once a session; every test gets a ROS domain of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for folder in (HERE, ROOT / "ros2_ws", ROOT / "ros2_ws" / "src" / "omnistream_ros"):
    sys.path.insert(0, str(folder))

from build import installed_environment  # noqa: E402
from ros_harness import TRANSPORT, Peer, Workspace, new_domain  # noqa: E402

os.environ.update(TRANSPORT)
SHARED_MEMORY = Path("/dev/shm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ros)


@pytest.fixture(scope="session", autouse=True)
def _no_shared_memory_left() -> Iterator[None]:
    """Segments of processes that were killed stay behind: remove those of this session that nobody has mapped."""
    before = set(SHARED_MEMORY.glob("*fastdds_*"))
    yield
    mapped = "".join(_maps(process) for process in Path("/proc").glob("[0-9]*"))
    for segment in set(SHARED_MEMORY.glob("*fastdds_*")) - before:
        if segment.name.removesuffix("_el") not in mapped:
            segment.unlink(missing_ok=True)


def _maps(process: Path) -> str:
    try:
        return (process / "maps").read_text()
    except OSError:
        return ""


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The install folder of a fresh colcon build; OMNISTREAM_ROS_INSTALL names one to be used as it is."""
    ready = os.environ.get("OMNISTREAM_ROS_INSTALL")
    if ready:
        return Path(ready)
    base = tmp_path_factory.mktemp("colcon")
    command = [sys.executable, str(ROOT / "ros2_ws" / "build.py"), "--base", str(base)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return base / "install"


@pytest.fixture(scope="session")
def workspace(install: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(install, installed_environment(install), tmp_path_factory.mktemp("ros_logs"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with fixed random weights."""
    import torch

    from omnistream_core.config import preset
    from omnistream_core.model import build_model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    build_model(preset("tiny")).save_pretrained(folder)
    return folder


@pytest.fixture
def domain() -> int:
    return new_domain()


@pytest.fixture
def peer(domain: int) -> Iterator[Peer]:
    with Peer(domain) as one:
        yield one
