"""The layout holds: who may import whom, who may print, and that the set-up files say what they should.

Imports are read from the syntax tree, nothing is executed, so an import inside a function counts as well. Every check
is a function from a folder to a list of complaints, and is shown to complain on a small tree that breaks the rule.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = "omnistream_core"

# A module of the core imports only from those before it.
ORDER = [
    *("errors", "types", "config", "geometry", "preprocess", "retention", "cache", "layers", "backbone", "native"),
    *(
        "packed",
        "graphed",
        "heads",
        "checkpoint",
        "model",
        "session",
        "bench",
        "sources",
        "sinks",
        "pretraining",
        "evaluation",
    ),
    *("export", "replay", "verify", "cli"),
]
# Siblings: they bring frames in and carry predictions out, and know neither each other nor what happens in between.
STRANGERS = {"sources": {"model", "session"}, "sinks": {"model", "session", "sources"}}

# Our packages by the folder that holds them, and the other folders whose packages each may import.
PARTS = {
    CORE: {CORE},
    "ros2_ws": {"omnistream_msgs", "omnistream_ros", "omnistream_bringup", "omnistream_policy"},
    "policies": {"lerobot_policy_omnistream"},
    "sim": {"lerobot_env_omnistream"},
    "training": {"training"},
}
MAY_IMPORT = {CORE: set(), "ros2_ws": {CORE}, "policies": {CORE}, "sim": set(), "training": {CORE}}
# The one ROS package that needs LeRobot, to run its policies. Perception stays free of LeRobot, and of this package.
POLICY_PACKAGE = "ros2_ws/src/omnistream_policy"
SKIPPED_FOLDERS = {"build", "install", "log", "test", "tests", "__pycache__"}


# ---- reading imports ----


def sources_of(folder: Path) -> list[Path]:
    """The Python files under ``folder`` that are part of the product."""
    return sorted(
        path for path in folder.rglob("*.py") if not SKIPPED_FOLDERS & set(path.relative_to(folder).parts[:-1])
    )


def imports_of(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything ``path`` imports; ``from a import b`` gives ``a.b``."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and called_name(node) in {"import_module", "__import__"}:
            yield from ((node.lineno, str(arg.value)) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def called_name(call: ast.Call) -> str:
    """The last name of what is called: ``f`` for ``f(x)`` and for ``m.f(x)``."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


# ---- the rules ----


def part_complaints(root: Path) -> list[str]:
    """Imports of one part of the project by another that must not know it, and LeRobot where ROS goes without."""
    complaints = []
    for folder in PARTS:
        ours = {package for other in MAY_IMPORT[folder] | {folder} for package in PARTS[other]}
        forbidden = set().union(*PARTS.values()) - ours
        for path in sources_of(root / folder):
            here = set(forbidden)
            if folder == "ros2_ws" and root / POLICY_PACKAGE not in path.parents:
                here |= {"lerobot", "omnistream_policy"}
            for line, name in imports_of(path, root):
                if name.split(".")[0] in here:
                    complaints.append(f"{path.relative_to(root)}:{line} imports {name}")
    return complaints


def order_complaints(root: Path) -> list[str]:
    """Imports within the core that go up the declared order or to a stranger, and modules the order does not know."""
    complaints = []
    for path in sources_of(root / CORE):
        unit = path.relative_to(root / CORE).with_suffix("").parts[0]
        if unit in {"__init__", "__main__"}:  # the front door may open onto anything
            continue
        if unit not in ORDER:
            complaints.append(f"{path.relative_to(root)}: {unit} has no place in the order {' '.join(ORDER)}")
            continue
        allowed = {unit, *ORDER[: ORDER.index(unit)]} - STRANGERS.get(unit, set())
        for line, name in imports_of(path, root):
            head, _, rest = name.partition(".")
            if head == CORE and rest.split(".")[0] not in allowed:
                complaints.append(f"{path.relative_to(root)}:{line} imports {name}")
    return complaints


def output_complaints(root: Path) -> list[str]:
    """Calls of print and logging.basicConfig in the core outside its command line."""
    complaints = []
    for path in sources_of(root / CORE):
        if path.relative_to(root / CORE).with_suffix("").parts[0] == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (called_name(node) == "basicConfig" or is_print(node)):
                complaints.append(f"{path.relative_to(root)}:{node.lineno} calls {called_name(node)}")
    return complaints


def is_print(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "print"


def package_complaints(root: Path) -> list[str]:
    """Folders of the core with modules but no __init__.py: an installed omnistream would lack them."""
    folders = {path.parent for path in sources_of(root / CORE)}
    return [
        f"{folder.relative_to(root)} has no __init__.py"
        for folder in sorted(folders)
        if not (folder / "__init__.py").exists()
    ]


CHECKS = [part_complaints, order_complaints, output_complaints, package_complaints]


@pytest.mark.parametrize("check", CHECKS)
def test_project_keeps_the_rule(check):
    assert (ROOT / CORE / "types.py") in sources_of(ROOT / CORE), "the check looks at the wrong folder"
    assert check(ROOT) == []


# ---- the checks can fail ----

GOOD_TREE = {
    "omnistream_core/__init__.py": "from omnistream_core.session import StreamSession",
    "omnistream_core/errors.py": "",
    "omnistream_core/types.py": "import numpy\nfrom omnistream_core.errors import ConfigError",
    "omnistream_core/session.py": "from . import types\nfrom .errors import ConfigError",
    "omnistream_core/sources/__init__.py": "from .bag import Bag",
    "omnistream_core/sources/bag.py": "from ..types import Frame\nfrom omnistream_core.errors import SourceError",
    "omnistream_core/sinks/__init__.py": "from omnistream_core import types, geometry\nfile.print()",
    "omnistream_core/cli.py": "import logging\nfrom omnistream_core import sinks\nprint(1)\nlogging.basicConfig()",
    "ros2_ws/src/omnistream_ros/omnistream_ros/node.py": "import omnistream_core.session\nimport omnistream_msgs.msg",
    "ros2_ws/src/omnistream_policy/omnistream_policy/policy.py": "import lerobot.policies, omnistream_ros.worker",
    "ros2_ws/build/omnistream_ros/copy.py": "import lerobot",
    "policies/lerobot_policy_omnistream/modeling.py": "import lerobot, omnistream_core",
    "sim/lerobot_env_omnistream/env.py": "import lerobot",
    "sim/tests/test_env.py": "import lerobot_policy_omnistream",
    "training/pretrain.py": "from omnistream_core.pretraining import trainer",
}
BAD_FILES = [
    (part_complaints, "omnistream_core/session.py", "import lerobot_policy_omnistream"),
    (part_complaints, "omnistream_core/session.py", "def f():\n    from training import recipes"),
    (part_complaints, "omnistream_core/cli.py", "import importlib\nimportlib.import_module('omnistream_ros.node')"),
    (part_complaints, "ros2_ws/src/omnistream_ros/omnistream_ros/node.py", "from lerobot.policies import factory"),
    (part_complaints, "ros2_ws/src/omnistream_ros/omnistream_ros/node.py", "from omnistream_policy import policy"),
    (part_complaints, "ros2_ws/src/omnistream_policy/omnistream_policy/p.py", "import lerobot_policy_omnistream"),
    (part_complaints, "policies/lerobot_policy_omnistream/modeling.py", "import lerobot_env_omnistream"),
    (part_complaints, "sim/lerobot_env_omnistream/env.py", "from omnistream_core.types import Frame"),
    (part_complaints, "training/pretrain.py", "from lerobot_policy_omnistream import modeling"),
    (order_complaints, "omnistream_core/types.py", "from omnistream_core.session import StreamSession"),
    (order_complaints, "omnistream_core/types.py", "from omnistream_core import session"),
    (order_complaints, "omnistream_core/types.py", "from omnistream_core import StreamSession"),
    (order_complaints, "omnistream_core/types.py", "from . import session"),
    (order_complaints, "omnistream_core/types.py", "import omnistream_core"),
    (order_complaints, "omnistream_core/sources/bag.py", "from ..session import StreamSession"),
    (order_complaints, "omnistream_core/sources/bag.py", "from ..sinks import files"),
    (order_complaints, "omnistream_core/sinks/files.py", "from omnistream_core.sources.bag import Bag"),
    (order_complaints, "omnistream_core/helpers.py", ""),
    (output_complaints, "omnistream_core/session.py", "print('here')"),
    (output_complaints, "omnistream_core/sinks/files.py", "import logging\nlogging.basicConfig()"),
    (output_complaints, "omnistream_core/sinks/files.py", "from logging import basicConfig\nbasicConfig()"),
    (package_complaints, "omnistream_core/layers/block.py", ""),
]


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("check", CHECKS)
def test_check_accepts_a_tree_that_keeps_the_rule(tmp_path, check):
    assert check(write_tree(tmp_path, GOOD_TREE)) == []


@pytest.mark.parametrize(("check", "name", "text"), BAD_FILES)
def test_check_names_the_file_that_breaks_the_rule(tmp_path, check, name, text):
    complaints = check(write_tree(tmp_path, GOOD_TREE | {name: text}))
    assert len(complaints) == 1
    assert complaints[0].startswith(name) or name.startswith(complaints[0].split(" ")[0])


# ---- the set-up files ----

REQUIREMENT_FILES = ["requirements.in", "requirements.txt", "requirements-override.txt", "setup.py", "pyproject.toml"]
TARGETS = {"setup", "demo", "test", "test-slow", "lint", "format", "train-tiny", "clean", "help", "lock", "bench-check"}


def requirement_names(name: str) -> list[str]:
    """The distributions that a requirements file asks for, normalised."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in lines if line]


@pytest.mark.parametrize("name", REQUIREMENT_FILES)
def test_requirements_name_no_place_to_fetch_from(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:|index-url|find-links|@ /|/tmp/", text)


def test_pins_are_exact_and_cover_what_is_asked_for():
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.lstrip().startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9.-]+==[^\s=]+", pin)] == []
    assert set(requirement_names("requirements.in")) - set(requirement_names("requirements.txt")) == set()
    assert set(requirement_names("requirements-override.txt")) & set(requirement_names("requirements.txt")) == set()


def test_makefile_has_its_targets_and_ci_runs_the_tests():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"^([a-z-]+):(?!=)", makefile, flags=re.MULTILINE)) == TARGETS
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert os.access(ROOT / "scripts" / "setup.sh", os.X_OK)


def test_ros_wheel_exports_are_rewritten_once(tmp_path):
    spec = importlib.util.spec_from_file_location("fix_ros_wheels", ROOT / "scripts" / "fix_ros_wheels.py")
    fix_ros_wheels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fix_ros_wheels)
    name = "share/std_msgs/cmake/export_std_msgs__rosidl_generator_pyExport.cmake"
    export = (
        write_tree(tmp_path, {name: 'INTERFACE_INCLUDE_DIRECTORIES "${P}/include;/opt/python/a;/opt/numpy/b"\n'}) / name
    )

    assert fix_ros_wheels.fix(tmp_path, ("/own/python", "/own/numpy")) == [export]
    assert export.read_text() == 'INTERFACE_INCLUDE_DIRECTORIES "${P}/include;/own/python;/own/numpy"\n'
    assert fix_ros_wheels.fix(tmp_path, ("/own/python", "/own/numpy")) == []
