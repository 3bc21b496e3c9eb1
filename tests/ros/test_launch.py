"""The launch files against a stand-in of the `launch` packages, which no wheel carries.

The stand-in records what is constructed; that the real packages take these arguments is not shown here. Remappings and
parameter files are given to a real node.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rclpy
import yaml
from rclpy.node import Node
from ros_harness import PROFILE, WORKSPACE

from omnistream_policy.parameters import PolicySettings
from omnistream_ros.parameters import ReplaySettings, defaults

BRINGUP = WORKSPACE / "src" / "omnistream_bringup"
POLICY = WORKSPACE / "src" / "omnistream_policy"
FILES = sorted((WORKSPACE / "src").glob("*/launch/*.launch.py"))
MODULES = {
    "launch": ["LaunchDescription"],
    "launch.actions": ["DeclareLaunchArgument", "IncludeLaunchDescription", "SetEnvironmentVariable"],
    "launch.conditions": ["IfCondition"],
    "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
    "launch.substitutions": ["EnvironmentVariable", "LaunchConfiguration", "PathJoinSubstitution"],
    "launch_ros": [],
    "launch_ros.actions": ["LifecycleNode", "Node"],
    "launch_ros.parameter_descriptions": ["ParameterValue"],
    "launch_ros.substitutions": ["FindPackageShare"],
}


class Recorded:
    """What a launch file constructed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    @property
    def kind(self) -> str:
        return type(self).__name__


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch):
    for name, classes in MODULES.items():
        module = ModuleType(name)
        for entry in classes:
            setattr(module, entry, type(entry, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    return lambda path: runpy.run_path(str(path))["generate_launch_description"]().args[0]


def configurations(value: Any) -> set[str]:
    """Names of all launch arguments that are read somewhere inside."""
    if isinstance(value, Recorded):
        own = {value.args[0]} if value.kind == "LaunchConfiguration" else set()
        return own | configurations(list(value.args)) | configurations(value.kwargs)
    if isinstance(value, dict):
        return configurations(list(value.values()))
    return set().union(*map(configurations, value)) if isinstance(value, (list, tuple)) else set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_argument_is_declared_and_used(launch, path: Path) -> None:
    entities = launch(path)
    declared = {entity.args[0] for entity in entities if entity.kind == "DeclareLaunchArgument"}
    assert configurations([e for e in entities if e.kind != "DeclareLaunchArgument"]) == declared
    assert all(e.kwargs["description"] for e in entities if e.kind == "DeclareLaunchArgument")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_included_takes_the_arguments(launch, path: Path) -> None:
    known = {
        e.args[0] for e in launch(BRINGUP / "launch" / "perception.launch.py") if e.kind == "DeclareLaunchArgument"
    }
    for entity in launch(path):
        if entity.kind == "IncludeLaunchDescription":
            assert {name for name, _ in entity.kwargs["launch_arguments"]} <= known


def test_the_perception_node_is_a_lifecycle_node_with_base_and_overlay(launch) -> None:
    entities = launch(BRINGUP / "launch" / "perception.launch.py")
    (node,) = [entity for entity in entities if entity.kind == "LifecycleNode"]
    assert (node.kwargs["package"], node.kwargs["executable"]) == ("omnistream_ros", "perception_node")
    base, _overlay, _arguments = node.kwargs["parameters"]
    assert base.args[0][-1] == "base.yaml" and (BRINGUP / "config" / "base.yaml").exists()
    (variable,) = [entity for entity in entities if entity.kind == "SetEnvironmentVariable"]
    assert variable.args[0] == "FASTDDS_DEFAULT_PROFILES_FILE" and PROFILE.exists()


def test_the_replay_arguments_are_parameters_with_their_defaults(launch) -> None:
    entities = launch(BRINGUP / "launch" / "replay.launch.py")
    (node,) = [entity for entity in entities if entity.kind == "Node"]
    values, fixed = node.kwargs["parameters"]
    assert set(values) | set(fixed) <= set(defaults(ReplaySettings))
    declared = {e.args[0]: e.kwargs["default_value"] for e in entities if e.kind == "DeclareLaunchArgument"}
    for name, value in values.items():
        kind = value.kwargs["value_type"]
        assert type(defaults(ReplaySettings)[name]) is kind
        assert kind(yaml.safe_load(declared[name] or "''")) == defaults(ReplaySettings)[name]


def text(value: Any, arguments: dict[str, str]) -> str:
    """What a substitution becomes."""
    if isinstance(value, Recorded):
        assert value.kind == "LaunchConfiguration"
        return arguments[value.args[0]]
    return value if isinstance(value, str) else "".join(text(part, arguments) for part in value)


@pytest.fixture
def start(launch, domain: int):
    """Start a plain node with the remappings and the parameter file of the policy's launch file."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)

    def start(**changes: str) -> Node:
        entities = launch(POLICY / "launch" / "policy.launch.py")
        (lifecycle_node,) = [entity for entity in entities if entity.kind == "LifecycleNode"]
        arguments = {e.args[0]: e.kwargs.get("default_value") for e in entities if e.kind == "DeclareLaunchArgument"}
        rules = [[text(side, arguments | changes) for side in pair] for pair in lifecycle_node.kwargs["remappings"]]
        options = [option for a, b in rules for option in ("-r", f"{a}:={b}")]
        options += ["--params-file", str(POLICY / "config" / "policy.yaml")]
        return Node(lifecycle_node.kwargs["name"], context=context, cli_args=["--ros-args", *options])

    yield start
    rclpy.shutdown(context=context)


def test_the_policy_launch_leaves_names_alone_by_default(start) -> None:
    node = start()
    assert node.resolve_topic_name("~/command") == "/policy_node/command"
    assert node.resolve_topic_name("joint_states") == "/joint_states"
    assert node.resolve_topic_name("front/image_raw/compressed") == "/front/image_raw/compressed"
    node.destroy_node()


def test_the_policy_launch_connects_camera_state_and_command(start) -> None:
    node = start(camera="wrist", image="/cam/color", joint_states="/arm/state", command="/arm/trajectory")
    assert node.resolve_topic_name("wrist/image_raw") == "/cam/color"
    assert node.resolve_topic_name("wrist/image_raw/compressed") == "/cam/color/compressed"
    assert node.resolve_topic_name("joint_states") == "/arm/state"
    assert node.resolve_topic_name("~/command") == "/arm/trajectory"
    node.destroy_node()


def test_the_policy_file_is_the_table_as_ros_reads_it(start) -> None:
    node = start()
    for name, default in defaults(PolicySettings).items():
        read = node.declare_parameter(name, default).value  # of another type than the default: an error
        assert list(read) == default if isinstance(default, list) else read == default
    file = yaml.safe_load((POLICY / "config" / "policy.yaml").read_text())["/**"]["ros__parameters"]
    assert list(file.items()) == list(defaults(PolicySettings).items()), "in the same order"
    node.destroy_node()


def test_the_policy_launch_wants_a_policy_and_does_not_move_the_robot_by_itself(launch) -> None:
    entities = launch(POLICY / "launch" / "policy.launch.py")
    declared = {e.args[0]: e.kwargs.get("default_value") for e in entities if e.kind == "DeclareLaunchArgument"}
    assert declared["policy"] is None and declared["autostart"] == "false"
    (node,) = [entity for entity in entities if entity.kind == "LifecycleNode"]
    _defaults, _file, values = node.kwargs["parameters"]
    for name in set(values) - {"use_sim_time"}:  # every node has that one
        assert values[name].kwargs["value_type"] is type(defaults(PolicySettings)[name])
    assert (node.kwargs["package"], node.kwargs["executable"]) == ("omnistream_policy", "policy_node")


def test_rviz_shows_what_the_node_publishes() -> None:
    config = yaml.safe_load((BRINGUP / "rviz" / "omnistream.rviz").read_text())["Visualization Manager"]
    topics = {display["Topic"]["Value"] for display in config["Displays"] if "Topic" in display}
    kinds = {display["Class"].rpartition("/")[2] for display in config["Displays"]}
    assert {f"/perception_node/{t}" for t in ("depth/image", "points", "map", "path", "feature_image")} <= topics
    assert kinds >= {"Image", "PointCloud2", "Path", "TF"}
    assert config["Global Options"]["Fixed Frame"] == "odom"
