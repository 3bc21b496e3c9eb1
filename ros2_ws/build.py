"""Build the workspace where ROS 2 comes as Python wheels. On a machine with an apt ROS, plain `colcon build` does it.

    .venv/bin/python ros2_ws/build.py [--base FOLDER] [colcon build arguments]

FOLDER, the workspace itself by default, receives build/, install/ and log/. Afterwards
`source FOLDER/install/setup.bash`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parent


def wheel_environment(base: dict[str, str] | None = None) -> dict[str, str]:
    """The environment in which CMake, compiler and Python find the wheels of this Python."""
    env = dict(os.environ if base is None else base)
    prefix = Path(sys.prefix)
    libraries = [prefix / "lib", *sorted(Path(sysconfig.get_path("purelib")).glob("ros_*.libs"))]
    return env | {
        "AMENT_PREFIX_PATH": str(prefix),
        "CMAKE_PREFIX_PATH": str(prefix),
        "LD_LIBRARY_PATH": _joined(libraries, env.get("LD_LIBRARY_PATH")),
        "PATH": _joined([Path(sys.executable).parent], env.get("PATH")),
    }


def installed_environment(install: Path, base: dict[str, str] | None = None) -> dict[str, str]:
    """``wheel_environment`` with the packages under ``install`` (colcon's default layout) in front."""
    env = wheel_environment(base)
    packages = sorted(path.parent.parent for path in install.glob("*/share/ament_index"))
    python = Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    return env | {
        "AMENT_PREFIX_PATH": _joined(packages, env["AMENT_PREFIX_PATH"]),
        "LD_LIBRARY_PATH": _joined([path / "lib" for path in packages], env["LD_LIBRARY_PATH"]),
        "PYTHONPATH": _joined([path / python for path in packages], env.get("PYTHONPATH")),
    }


def base_paths() -> list[str]:
    """``src``, and the underlay of every package that this ROS lacks."""
    underlays = [path for path in (WORKSPACE / "underlay").iterdir() if path.is_dir()]
    return [str(WORKSPACE / "src"), *(str(path) for path in underlays if importlib.util.find_spec(path.name) is None)]


def build(base: Path, extra: list[str]) -> int:
    """Run colcon; its exit code."""
    folders = [f"--{name}-base={base / name}" for name in ("build", "install")]
    command = ["colcon", f"--log-base={base / 'log'}", "build", *folders, "--executor=sequential"]
    command += ["--base-paths", *base_paths(), *extra]
    command += ["--cmake-args", "-G", "Ninja", f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
    return subprocess.run(command, env=wheel_environment(), check=False).returncode


def _joined(first: list[Path], rest: str | None) -> str:
    return os.pathsep.join([*(str(path) for path in first), *([rest] if rest else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the workspace against the ROS 2 wheels of this Python.")
    parser.add_argument("--base", type=Path, default=WORKSPACE, help="receives build/, install/ and log/")
    arguments, extra = parser.parse_known_args()
    sys.exit(build(arguments.base.resolve(), extra))


if __name__ == "__main__":
    main()
