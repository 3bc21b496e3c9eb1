"""How a node's process ends."""

from __future__ import annotations

import pytest

rclpy = pytest.importorskip("rclpy")
from rclpy.node import Node  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from omnistream_ros.running import run  # noqa: E402


class Publishing(Node):
    """Publishes on a timer; first the context goes, as a signal would take it, or something else breaks."""

    def __init__(self, before) -> None:
        super().__init__("publishing")
        self._publisher, self._before = self.create_publisher(String, "text", 1), before
        self.create_timer(0.01, self._publish)

    def _publish(self) -> None:
        self._before()
        self._publisher.publish(String(data="late"))
        raise RuntimeError("published after all")


def test_a_signal_in_the_middle_of_a_callback_is_no_failure():
    assert run(lambda: Publishing(rclpy.shutdown)) == 0


def test_what_breaks_before_a_signal_is_a_failure():
    with pytest.raises(RuntimeError, match="published after all"):
        run(lambda: Publishing(lambda: None))
