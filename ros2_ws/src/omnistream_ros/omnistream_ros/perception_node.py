"""The lifecycle node that turns camera images into depth, points, pose and features. Topics: README of the workspace.

Callbacks only enqueue. One worker thread decodes, steps and publishes, in order; resets and parameter changes take
their turn among the images. The node runs in a SingleThreadedExecutor.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool

from omnistream_core.config import StreamConfig
from omnistream_core.errors import OmniStreamError
from omnistream_core.session import StreamSession
from omnistream_msgs.msg import StreamStatus
from omnistream_msgs.srv import ResetStream
from omnistream_ros import diagnostics
from omnistream_ros.camera_info import CameraInfoReader
from omnistream_ros.conversions import stamp_ns_of
from omnistream_ros.managed_node import ManagedNode, image_input
from omnistream_ros.outputs import CameraOutputs, ModelFacts
from omnistream_ros.parameters import PerceptionSettings
from omnistream_ros.pipeline import Arrival, Pipeline
from omnistream_ros.ros_parameters import ParameterTable
from omnistream_ros.running import run
from omnistream_ros.status import CameraStatus
from omnistream_ros.worker import Mailbox, Throttle, Worker

NODE_NAME = "perception_node"
DIAGNOSTICS_PERIOD_S = 1.0
INFO_WAIT_S = 1.0  # images of a camera with a CameraInfo topic wait so long for its first message
SessionFactory = Callable[[PerceptionSettings], StreamSession]


def load_session(settings: PerceptionSettings) -> StreamSession:
    """The session that the parameters ask for.

    Raises:
        OmniStreamError: checkpoint or device that is not there, settings that do not fit.
    """
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)
    config = StreamConfig(window=settings.window, sink=settings.sink, device=settings.device, dtype=settings.dtype)
    session = StreamSession.from_pretrained(settings.checkpoint, config, streams=len(settings.cameras))
    session.warm_up((settings.warm_up_height, settings.warm_up_width))
    return session


class PerceptionNode(ManagedNode):
    """
    Args:
        session_factory: makes the warmed-up session at each configure.
        arguments: passed on to the node: ``context``, ``parameter_overrides``, ...
    """

    def __init__(self, *, session_factory: SessionFactory = load_session, **arguments: Any) -> None:
        super().__init__(NODE_NAME, **arguments)
        self._session_factory = session_factory
        self._throttle = Throttle()
        self._is_active, self._is_enabled = False, True
        self._activated_s = 0.0
        self._cameras: list[CameraStatus] = []
        self._outputs: list[CameraOutputs] = []
        self._image_subscriptions: dict[int, Any] = {}
        self._info_readers: dict[int, CameraInfoReader] = {}
        self._first_image_s: dict[int, float] = {}
        self._newest_stamp_ns: dict[int, int] = {}
        self._incompatible: set[int] = set()
        self._refused_before: list[int] = []
        self._worker: Worker[Arrival] | None = None
        self._pipeline: Pipeline | None = None
        self._table = ParameterTable(self, PerceptionSettings, is_free=lambda: self._worker is None, apply=self._apply)
        self._status = self.create_publisher(StreamStatus, "~/status", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(ResetStream, "~/reset_stream", self._on_reset_stream)
        self.create_service(SetBool, "~/set_enabled", self._on_set_enabled)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # ROS time may stand still
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady)
        self._start_when_spinning(steady)

    # ---- lifecycle ----

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the model, allocate, create publishers and subscriptions."""
        try:
            settings = self._table.settings()
            session = self._session_factory(settings)
        except (OmniStreamError, RuntimeError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self._cameras = [CameraStatus() for _ in settings.cameras]
        self._refused_before = [0] * len(settings.cameras)
        facts = ModelFacts(checkpoint=settings.checkpoint, layer=session.model.config.backbone.depth - 1)
        self._outputs = [CameraOutputs(self, settings, stream, facts) for stream in range(len(settings.cameras))]
        self._pipeline = Pipeline(session, settings, self._cameras, self._outputs, self._warn)
        wait_s = settings.batch_wait_s if len(settings.cameras) > 1 else 0.0
        mailbox: Mailbox[Arrival] = Mailbox(
            len(settings.cameras), wait_s, merge=lambda older, newer: newer.instead_of(older)
        )
        self._worker = Worker(mailbox, self._pipeline.process, self._on_worker_error)
        self._subscribe(settings)
        self._say_configured(settings, session)
        gc.collect()
        gc.freeze()  # the model and all modules: no later collection walks through them
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take images and publish."""
        self._is_active, self._activated_s = True, time.monotonic()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish nothing and ignore images; the stream is kept."""
        self._is_active = False
        return super().on_deactivate(state)

    def _subscribe(self, settings: PerceptionSettings) -> None:
        kind, suffix, qos = image_input(settings)
        for stream, camera in enumerate(settings.cameras):
            prefix = f"{camera}/" if camera else ""
            if settings.use_camera_info:
                self._info_readers[stream] = CameraInfoReader(self, f"{prefix}camera_info", qos)
            events = SubscriptionEventCallbacks(incompatible_qos=partial(self._on_incompatible_qos, stream))
            on_image = partial(self._on_image, stream)
            self._image_subscriptions[stream] = self.create_subscription(
                kind, f"{prefix}image_raw{suffix}", on_image, qos, event_callbacks=events
            )

    def _say_configured(self, settings: PerceptionSettings, session: StreamSession) -> None:
        self.get_logger().info(
            f"configured: {settings.checkpoint}, {settings.dtype} on {settings.device}, "
            f"{len(settings.cameras)} stream(s), window {settings.window} + sink {settings.sink} images, "
            f"cache {session.stats.cache_bytes / 1e6:.1f} MB for images of "
            f"{settings.warm_up_width}x{settings.warm_up_height} px"
        )

    def _release(self) -> None:
        self._is_active = False
        if self._worker is not None:
            self._worker.stop()
        for subscription in self._image_subscriptions.values():
            self.destroy_subscription(subscription)
        for reader in self._info_readers.values():
            reader.close()
        for outputs in self._outputs:
            outputs.close()
        self._outputs, self._cameras = [], []
        self._worker, self._pipeline = None, None
        for kept in (self._image_subscriptions, self._info_readers, self._incompatible):
            kept.clear()
        self._first_image_s.clear()
        self._newest_stamp_ns.clear()
        gc.unfreeze()
        gc.collect()

    # ---- callbacks: they only enqueue ----

    def _on_image(self, stream: int, message: Image | CompressedImage) -> None:
        if not (self._is_active and self._is_enabled) or self._worker is None:
            return
        now_s, reader = time.monotonic(), self._info_readers.get(stream)
        info = reader.newest() if reader else None
        if reader and info is None and self._may_still_come(stream, reader, now_s):
            self._cameras[stream].arrived(now_s, replaced=False)
            self._cameras[stream].refuse("came before camera_info")
            return
        arrival = Arrival(message=message, info=info, arrived_s=now_s, silence_s=self._silence_s(stream, message))
        replaced = self._worker.mailbox.put(stream, arrival)
        self._cameras[stream].arrived(now_s, replaced=replaced)

    def _silence_s(self, stream: int, message: Image | CompressedImage) -> float:
        """Seconds of stamps since the image that came before."""
        stamp_ns = stamp_ns_of(message.header.stamp)
        before_ns = self._newest_stamp_ns.get(stream, stamp_ns)
        self._newest_stamp_ns[stream] = stamp_ns
        return (stamp_ns - before_ns) / 1e9

    def _may_still_come(self, stream: int, reader: CameraInfoReader, now_s: float) -> bool:
        """The camera publishes its intrinsics, and the first images wait for them."""
        waits_s = now_s - self._first_image_s.setdefault(stream, now_s)
        return waits_s <= INFO_WAIT_S and reader.has_publisher()

    def _on_incompatible_qos(self, stream: int, _event: Any) -> None:
        self._incompatible.add(stream)

    def _on_reset_stream(self, request: ResetStream.Request, response: ResetStream.Response) -> ResetStream.Response:
        count = len(self._cameras)
        if self._worker is None or self._pipeline is None:
            response.success, response.message = False, "the node is not configured: there is no stream"
        elif not -1 <= request.stream < count:
            response.success, response.message = False, f"stream {request.stream}: -1 for all, or 0 to {count - 1}"
        else:
            streams = list(range(count)) if request.stream == -1 else [request.stream]
            self._worker.mailbox.command(partial(self._pipeline.reset, streams, "asked for by reset_stream"))
            response.success, response.message = True, f"reset of streams {streams} takes its turn"
        return response

    def _on_set_enabled(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._is_enabled = request.data
        response.success = True
        response.message = "images are taken" if request.data else "images are ignored, the stream is kept"
        return response

    def _apply(self, settings: PerceptionSettings) -> None:
        if self._worker is not None and self._pipeline is not None:
            self._worker.mailbox.command(partial(self._pipeline.apply, settings))

    # ---- what it says of itself ----

    def _warn(self, key: str, sentence: str) -> None:
        silent = self._throttle(key)
        if silent is not None:
            self.get_logger().warning(sentence + (f" ({silent} more since the last such message)" if silent else ""))

    def _on_worker_error(self, error: Exception) -> None:
        self._warn(
            f"worker {type(error).__name__}", f"an image could not be processed: {type(error).__name__}: {error}"
        )

    def _publish_diagnostics(self) -> None:
        now = self.get_clock().now().to_msg()
        array = DiagnosticArray()
        array.header.stamp = now
        for stream, status in enumerate(self._cameras):
            report = status.report(time.monotonic())
            about = self._circumstances(stream, report.newest_input_s, sum(report.refused.values()))
            age_s = diagnostics.output_age_s(now, report)
            name = f"{self.get_fully_qualified_name()}: {about.camera or 'camera'}"
            array.status.append(diagnostics.diagnostic_status(name, report, about, age_s))
            self._status.publish(diagnostics.stream_status(now, report, about, age_s, status.window_s))
        self._diagnostics.publish(array)

    def _circumstances(self, stream: int, newest_input_s: float | None, refused: int) -> diagnostics.Circumstances:
        assert self._pipeline is not None
        settings, session = self._table.settings(), self._pipeline.session
        topic = self._image_subscriptions[stream]
        now_s = time.monotonic()
        newly_refused = refused - self._refused_before[stream]
        self._refused_before[stream] = refused
        return diagnostics.Circumstances(
            topic=topic.topic_name,
            stream=stream,
            camera=settings.cameras[stream],
            is_running=self._is_active and self._is_enabled,
            publishers=topic.get_publisher_count(),
            incompatible=stream in self._incompatible,
            running_s=now_s - self._activated_s,
            silent_s=math.inf if newest_input_s is None else now_s - newest_input_s,
            max_gap_s=settings.max_gap_s,
            newly_refused=newly_refused,
            cache_frames=session.fill(stream),
            cache_capacity=settings.window + settings.sink,
            cache_bytes=session.stats.cache_bytes,
        )


def main(args: list[str] | None = None, *, session_factory: SessionFactory = load_session) -> None:
    """Run the node until SIGINT or SIGTERM."""
    sys.exit(run(partial(PerceptionNode, session_factory=session_factory), args))


if __name__ == "__main__":
    main()
