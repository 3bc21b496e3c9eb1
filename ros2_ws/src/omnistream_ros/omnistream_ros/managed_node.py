"""What every lifecycle node of this workspace does alike: frees everything on each way out, and goes up by itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from rclpy.clock import Clock
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from omnistream_ros.ros_parameters import ParameterTable


class ManagedNode(LifecycleNode):
    """A node with a parameter table that holds ``autostart``; a subclass says what there is to free."""

    _table: ParameterTable[Any]

    @abstractmethod
    def _release(self) -> None:
        """Free everything that configure made; more than once does no harm."""

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything that configure made."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an exception in a transition: free everything; the node can be configured again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        self._release()
        super().destroy_node()

    def _start_when_spinning(self, clock: Clock) -> None:
        self._autostart = self.create_timer(0.0, self._start, clock=clock)

    def _start(self) -> None:
        self._autostart.cancel()
        if not self._table.settings().autostart:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()


def image_input(settings: Any) -> tuple[type[Image] | type[CompressedImage], str, QoSProfile]:
    """Message type, end of the topic's name and quality of service that ``transport`` and ``image_qos`` ask for."""
    is_reliable = settings.image_qos == "reliable"
    qos = QoSProfile(
        depth=2,  # the newest is what counts; more of them here would only be older
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
    )
    return (Image, "", qos) if settings.transport == "raw" else (CompressedImage, "/compressed", qos)
