"""What colcon leaves behind, and the package files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package
from ros_harness import PROFILE, WORKSPACE

PACKAGES = sorted(path.parent for path in WORKSPACE.rglob("package.xml") if not {"build", "install"} & set(path.parts))

EXECUTABLES = [
    ("omnistream_ros", "perception_node"),
    ("omnistream_ros", "replay_node"),
    ("omnistream_policy", "policy_node"),
]


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda path: path.name)
def test_package_files_are_valid(folder: Path) -> None:
    package = parse_package(str(folder / "package.xml"))
    package.validate()
    assert package.name == folder.name and package.package_format == 3
    assert all(person.email for person in package.maintainers)


def test_everything_is_installed(install: Path) -> None:
    for package, executable in EXECUTABLES:
        assert os.access(install / package / "lib" / package / executable, os.X_OK)
    share = install / "omnistream_bringup" / "share" / "omnistream_bringup"
    assert (share / "config" / PROFILE.name).read_text() == PROFILE.read_text()
    assert len(list((share / "launch").glob("*.launch.py"))) == 4
    assert (share / "rviz" / "omnistream.rviz").exists()
    share = install / "omnistream_policy" / "share" / "omnistream_policy"
    assert (share / "launch" / "policy.launch.py").exists() and (share / "config" / "policy.yaml").exists()
    for package in ("omnistream_msgs", "omnistream_ros", "omnistream_bringup", "omnistream_policy"):
        assert (install / package / "share" / "ament_index" / "resource_index" / "packages" / package).exists()


def test_every_field_of_the_messages_is_explained() -> None:
    for path in (WORKSPACE / "src" / "omnistream_msgs").glob("*/*.*"):
        if path.suffix in (".msg", ".srv"):
            for line in path.read_text().splitlines():
                assert not line or line == "---" or "#" in line, f"{path.name}: {line}"
