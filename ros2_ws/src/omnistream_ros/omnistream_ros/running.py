"""Runs one node as a process: until a signal, with an exit code that says how it went."""

from __future__ import annotations

import sys
from collections.abc import Callable

import rclpy
import rclpy.logging
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from omnistream_core.errors import OmniStreamError

SWITCH_INTERVAL_S = 0.001  # so that a busy worker thread lets the executor in


def run(make_node: Callable[[], Node], args: list[str] | None = None) -> int:
    """Spin; the node's ``exit_code``, else 0, after a signal or its own end; 2 where parameters are illegal."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    rclpy.init(args=args)
    executor = SingleThreadedExecutor()
    node: Node | None = None
    try:
        node = make_node()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except OmniStreamError as error:
        rclpy.logging.get_logger("omnistream").fatal(str(error))
        return 2
    finally:
        if node is not None:
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return int(getattr(node, "exit_code", 0))
