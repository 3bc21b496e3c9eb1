"""Runs one node as a process: until a signal, with an exit code that says how it went."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import rclpy
import rclpy.logging
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from omnistream_core.errors import OmniStreamError

SWITCH_INTERVAL_S = 0.001  # so that a busy worker thread lets the executor in
MALLOC_OPTIONS = {-3: 32 << 20, -1: 128 << 20}  # malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD; bytes


def keep_freed_memory() -> None:
    """Let glibc keep what an image occupied for the next one: giving it back costs its page faults again each time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have no such options
        for option, size in MALLOC_OPTIONS.items():
            mallopt(option, size)


def run(make_node: Callable[[], Node], args: list[str] | None = None) -> int:
    """Spin; the node's ``exit_code``, else 0, after a signal or its own end; 2 where parameters are illegal."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()
    rclpy.init(args=args)
    executor = SingleThreadedExecutor()
    node: Node | None = None
    try:
        node = make_node()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:  # RCLError and its kin: a callback was at work when a signal took the context from under it
        if rclpy.ok():
            raise
    except OmniStreamError as error:
        rclpy.logging.get_logger("omnistream").fatal(str(error))
        return 2
    finally:
        if node is not None:
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return int(getattr(node, "exit_code", 0))
