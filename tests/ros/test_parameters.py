"""The tables are the one place of every parameter: YAML files and README are held against them."""

from __future__ import annotations

import pytest
import yaml
from ros_harness import WORKSPACE

from omnistream_core.errors import ConfigError
from omnistream_ros.parameters import (
    PerceptionSettings,
    ReplaySettings,
    defaults,
    markdown_table,
    ranges,
    with_changes,
)

CONFIG = WORKSPACE / "src" / "omnistream_bringup" / "config"
YAML_FILES = sorted(CONFIG.glob("*.yaml"))


def values_of(path) -> dict:
    return yaml.safe_load(path.read_text())["/**"]["ros__parameters"]


def test_the_base_yaml_is_the_table() -> None:
    base = values_of(CONFIG / "base.yaml")
    assert base == defaults(PerceptionSettings)
    assert list(base) == list(defaults(PerceptionSettings)), "in the same order"


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_every_yaml_is_legal_and_of_the_right_types(path) -> None:
    values = values_of(path)
    for name, value in values.items():
        assert type(value) is type(defaults(PerceptionSettings)[name]), f"{name}: ROS does not turn types into others"
    PerceptionSettings(**values)


def test_overlays_are_small() -> None:
    for path in YAML_FILES:
        if path.name != "base.yaml":
            assert 1 <= len(values_of(path)) <= 6


@pytest.mark.parametrize("table", [PerceptionSettings, ReplaySettings])
def test_every_parameter_is_described_and_numbers_have_ranges(table) -> None:
    for name, limits in ranges(table).items():
        assert limits.description
        default = defaults(table)[name]
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            assert limits.low is not None and limits.low <= default <= limits.high, name


@pytest.mark.parametrize("table", [PerceptionSettings, ReplaySettings])
def test_the_readme_has_the_tables(table) -> None:
    assert markdown_table(table) in (WORKSPACE / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "window = 0: 1 to 4096 is needed"),
        ({"dtype": "int8"}, "dtype = 'int8': one of 'float32', 'bfloat16', 'float16' is needed"),
        ({"cameras": ["a", "a"]}, "different names are needed"),
        ({"cameras": ["a", ""]}, "different names are needed"),
        ({"points_min_depth_m": 5.0, "points_max_depth_m": 2.0}, "the first must be smaller"),
    ],
)
def test_illegal_values_are_refused_with_the_valid_range(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        with_changes(PerceptionSettings(), changes)
