"""The workspace is built from nothing once a session; every test gets a ROS domain of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ROOT / "ros2_ws" / "src"
for folder in (HERE, ROOT / "ros2_ws", PACKAGES / "omnistream_ros", PACKAGES / "omnistream_policy"):
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


def features(cameras: list[str], state_size: int, action_size: int) -> dict[str, dict[str, Any]]:
    """Of a LeRobot policy with cameras of 64 x 48 pixels."""
    from lerobot.configs import FeatureType, PolicyFeature

    images = {f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, 48, 64)) for camera in cameras}
    return {
        "input_features": images | {"observation.state": PolicyFeature(FeatureType.STATE, (state_size,))},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (action_size,))},
    }


def save_policy(config: Any, folder: Path) -> Path:
    """Writes the policy of a configuration, with fixed random weights, as LeRobot does; the folder."""
    import torch
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    torch.manual_seed(0)
    stats = {
        key: {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.3)} for key in config.image_features
    }
    for key, feature in (("observation.state", config.robot_state_feature), ("action", config.action_feature)):
        stats[key] = {"mean": torch.zeros(feature.shape), "std": torch.ones(feature.shape)}
    get_policy_class(config.type)(config).save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_act_policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves LeRobot's ACT with fixed random weights, for cameras of 64 x 48 pixels; the folder."""
    pytest.importorskip("lerobot")
    from lerobot.policies.act.configuration_act import ACTConfig

    def make(cameras: list[str], state_size: int, action_size: int) -> Path:
        config = ACTConfig(
            **features(cameras, state_size, action_size),
            pretrained_backbone_weights=None,
            **{"chunk_size": 8, "n_action_steps": 8, "dim_model": 32, "n_heads": 2, "dim_feedforward": 64},
            **{"n_encoder_layers": 1, "use_vae": False, "device": "cpu"},
        )
        return save_policy(config, tmp_path_factory.mktemp("act"))

    return make


@pytest.fixture(scope="session")
def act_policy(make_act_policy: Callable[..., Path]) -> Path:
    """One camera, two joints, two numbers of action."""
    return make_act_policy(["front"], 2, 2)


@pytest.fixture(scope="session")
def make_omnistream_policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves the project's own policy as small as it gets, of data at 10 Hz; the folder."""
    pytest.importorskip("lerobot")
    configuration = pytest.importorskip("lerobot_policy_omnistream")

    def make(**settings: Any) -> Path:
        config = configuration.OmnistreamConfig(
            **features(["front"], 2, 2),
            **{"backbone": "random:tiny", "image_area_px": 48 * 48, "stream_frames": 4, "fps": 10.0, "device": "cpu"},
            **{"tokens_per_camera": 2, "dim_model": 16, "n_heads": 2},
            **settings,
        )
        return save_policy(config, tmp_path_factory.mktemp("omnistream"))

    return make


@pytest.fixture(scope="session")
def omnistream_policy(make_omnistream_policy: Callable[..., Path]) -> Path:
    """A stream and a chunk of four steps."""
    return make_omnistream_policy(chunk_size=4, n_action_steps=4)


@pytest.fixture(scope="session")
def real_time_policy(make_omnistream_policy: Callable[..., Path]) -> Path:
    """Chunks of sixteen steps, four of which are carried out, with real-time chunking."""
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    return make_omnistream_policy(chunk_size=16, n_action_steps=4, rtc_config=RTCConfig(execution_horizon=8))


@pytest.fixture
def domain() -> int:
    return new_domain()


@pytest.fixture
def peer(domain: int) -> Iterator[Peer]:
    with Peer(domain) as one:
        yield one
