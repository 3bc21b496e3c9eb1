"""The newest CameraInfo of a camera, looked up when an image needs it."""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo

STAMP_END = 12  # of a serialized message that begins with a Header: 4 bytes of encapsulation, 8 of stamp


class CameraInfoReader:
    """A subscription that nothing waits for, and whose messages are parsed only when more than their stamp is new.

    A camera sends a CameraInfo with every image, always the same one: to wake the executor up and to parse for each
    takes as long as an image's way through the node.
    """

    def __init__(self, node: Node, topic: str, qos: QoSProfile) -> None:
        self._node = node
        self._subscription = node.create_subscription(
            CameraInfo, topic, lambda _: None, qos, callback_group=_LeftAlone(), raw=True
        )
        self._newest: CameraInfo | None = None
        self._body = b""

    def newest(self) -> CameraInfo | None:
        """The same object as long as nothing but the stamp changes; None before the first message."""
        handle = self._subscription.handle
        with handle:
            while (taken := handle.take_message(CameraInfo, True)) is not None:
                if taken[0][STAMP_END:] != self._body:
                    self._body = taken[0][STAMP_END:]
                    self._newest = deserialize_message(taken[0], CameraInfo)
        return self._newest

    def has_publisher(self) -> bool:
        """Whether a message may come."""
        return bool(self._subscription.get_publisher_count() > 0)

    def close(self) -> None:
        """Destroy the subscription."""
        self._node.destroy_subscription(self._subscription)


class _LeftAlone(CallbackGroup):
    """Its subscriptions never have their turn in the executor, which does not even wait for them."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass
