"""Declares a table of parameters on a node and watches over changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from omnistream_core.errors import ConfigError
from omnistream_ros.parameters import Range, complaint, ranges, with_changes

Table = TypeVar("Table")


class ParameterTable(Generic[Table]):
    """
    Args:
        node: to declare on.
        table: dataclass of fields made with ``parameters.setting``.
        is_free: whether parameters that are not live may change now.
        apply: told of the settings after a change that was accepted.

    Raises:
        ConfigError: a value from a file or the command line that is illegal; the message names the valid range.
    """

    def __init__(
        self,
        node: Node,
        table: type[Table],
        *,
        is_free: Callable[[], bool] = lambda: True,
        apply: Callable[[Table], None] = lambda _: None,
    ) -> None:
        self._table, self._is_free, self._apply = table, is_free, apply
        values = {}
        for entry in dataclasses.fields(table):  # type: ignore[arg-type]
            values[entry.name] = _declare(node, table, entry.name)
        self._settings = table(**values)
        node.add_on_set_parameters_callback(self._on_set)

    def settings(self) -> Table:
        """The values now."""
        return self._settings

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        ours = {p.name: p.value for p in parameters if p.name in ranges(self._table)}
        try:
            settings = with_changes(self._settings, {name: _plain(value) for name, value in ours.items()})
        except (ConfigError, TypeError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        fixed = [name for name in ours if not ranges(self._table)[name].live]
        if fixed and not self._is_free():
            reason = f"{', '.join(fixed)}: takes effect at configure; deactivate and clean up the node first"
            return SetParametersResult(successful=False, reason=reason)
        self._settings = settings
        if ours:
            self._apply(settings)
        return SetParametersResult(successful=True)


def _declare(node: Node, table: type, name: str) -> Any:
    limits = ranges(table)[name]
    default = getattr(table(), name)
    try:
        parameter = node.declare_parameter(name, default, _descriptor(limits, default))
    except InvalidParameterTypeException as error:
        raise ConfigError(f"parameter {name}: {error}; the default is {default!r}") from None
    except InvalidParameterValueException as error:
        raise ConfigError(f"parameter {name}: {limits.valid_text()} is needed: {error}") from None
    value = _plain(parameter.value)
    message = complaint(table, name, value)
    if message:
        raise ConfigError(f"parameter {message}")
    return value


def _descriptor(limits: Range, default: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=limits.description, additional_constraints=limits.valid_text())
    if limits.low is not None and limits.high is not None:
        if isinstance(default, float):
            span = FloatingPointRange(from_value=float(limits.low), to_value=float(limits.high))
            descriptor.floating_point_range = [span]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(limits.low), to_value=int(limits.high))]
    return descriptor


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
