"""Decode, step, publish: what the worker does with the newest image of each camera. Knows messages, but no node."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from omnistream_core.errors import ConfigError, OmniStreamError
from omnistream_core.session import StreamSession
from omnistream_core.sources.camera_info import camera_from_info
from omnistream_core.sources.image_codec import ImageError, UnknownEncodingError
from omnistream_core.types import CameraModel, Frame, Prediction
from omnistream_ros import conversions
from omnistream_ros.outputs import StepResult
from omnistream_ros.parameters import PerceptionSettings
from omnistream_ros.status import CameraStatus
from omnistream_ros.stream_guard import GuardLimits, StreamGuard

MOST_IMAGE_SIZES = 4  # whose memory a session keeps; beyond, it is begun anew


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """An image as it came.

    Attributes:
        message: the image.
        info: the newest CameraInfo then; None without one.
        arrived_s: monotonic time, seconds.
        silence_s: stamps' difference to the image that came before, or the longest of those left out between; seconds.
    """

    message: Image | CompressedImage
    info: CameraInfo | None
    arrived_s: float
    silence_s: float = 0.0

    def instead_of(self, older: Arrival) -> Arrival:
        """This one in the place of an older one that is left out."""
        return replace(self, silence_s=max(self.silence_s, older.silence_s))


class Outputs(Protocol):
    """Where results of one camera go."""

    def publish(self, result: StepResult) -> bool: ...
    def reset(self) -> None: ...
    def apply(self, settings: PerceptionSettings) -> None: ...


@dataclass
class _Camera:
    name: str
    status: CameraStatus
    outputs: Outputs
    guard: StreamGuard
    info: CameraInfo | None = None
    model: CameraModel | None = None
    index: int = 0
    stage_ms: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """Runs in the worker's thread alone.

    Args:
        session: with one stream for each camera.
        settings: of the node.
        statuses, outputs: of each camera.
        warn: takes (key, sentence); keeps silent about a key it has just warned of.
    """

    def __init__(
        self,
        session: StreamSession,
        settings: PerceptionSettings,
        statuses: list[CameraStatus],
        outputs: list[Any],
        warn: Callable[[str, str], None],
    ) -> None:
        self.session, self._settings, self._warn = session, settings, warn
        self._cameras = [
            _Camera(name=name or "camera", status=status, outputs=output, guard=StreamGuard(_limits(settings)))
            for name, status, output in zip(settings.cameras, statuses, outputs, strict=True)
        ]
        self._sizes: set[tuple[int, int]] = set()

    def apply(self, settings: PerceptionSettings) -> None:
        """Take over the live parameters."""
        self._settings = settings
        for camera in self._cameras:
            camera.guard.limits = _limits(settings)
            camera.outputs.apply(settings)

    def reset(self, streams: list[int], reason: str) -> None:
        """Begin streams anew, whatever their next image is."""
        for stream in streams:
            self._cameras[stream].guard.forget()
            self._reset(stream, reason)

    def process(self, arrivals: dict[int, Arrival]) -> None:
        """Take the newest image of some cameras through the model as one batch and publish what comes of it."""
        frames: dict[int, Frame] = {}
        for stream, arrival in sorted(arrivals.items()):
            start_s = time.perf_counter()
            frame = self._frame(stream, arrival)
            if frame is not None:
                frames[stream] = frame
                self._cameras[stream].stage_ms = {"decode": _ms_since(start_s)}
        if not frames:
            return
        start_s = time.perf_counter()
        predictions = self._step(frames)
        step_ms = _ms_since(start_s)
        for stream, prediction in predictions.items():
            self._cameras[stream].stage_ms["step"] = step_ms
            self._publish(stream, arrivals[stream], frames[stream], prediction)

    def _frame(self, stream: int, arrival: Arrival) -> Frame | None:
        camera, header = self._cameras[stream], arrival.message.header
        try:
            image_HW3 = conversions.decode(arrival.message)
        except ImageError as error:
            return self._refuse(stream, error.reason, f"image refused: {error}")
        except UnknownEncodingError as error:
            return self._refuse(stream, "unknown encoding", f"image refused: {error}")
        intrinsics = self._intrinsics(stream, arrival.info, image_HW3.shape[:2])
        stamp_ns = conversions.stamp_ns_of(header.stamp)
        verdict = camera.guard.check(
            stamp_ns=stamp_ns,
            size_hw=image_HW3.shape[:2],
            frame_id=header.frame_id,
            camera=intrinsics,
            silence_s=arrival.silence_s,
        )
        if not verdict.accept:
            camera.status.out_of_order()
            return None
        if verdict.reset_reason:
            self._reset(stream, verdict.reset_reason)
        camera.index += 1
        return Frame(
            image_HW3=image_HW3,
            index=camera.index - 1,
            stamp_ns=stamp_ns,
            frame_id=header.frame_id,
            camera=intrinsics,
        )

    def _intrinsics(self, stream: int, info: CameraInfo | None, size_hw: tuple[int, int]) -> CameraModel | None:
        """Of the newest CameraInfo that makes sense; None where it is of another size, or there is none."""
        camera = self._cameras[stream]
        if info is not None and info is not camera.info:
            try:
                camera.model = camera_from_info(info)
                camera.info = info
                if conversions.is_distorted(camera.model):
                    self._warn(
                        f"{camera.name} distorted",
                        f"{camera.name}: camera_info has a distortion, points assume a pinhole: give rectified images",
                    )
            except ConfigError as error:
                self._warn(f"{camera.name} info {error}", f"{camera.name}: camera_info refused: {error}")
        if camera.model is None or (camera.model.height_px, camera.model.width_px) == size_hw:
            return camera.model
        self._warn(
            f"{camera.name} info size",
            f"{camera.name}: camera_info is of {camera.model.width_px}x{camera.model.height_px} px, the image of "
            f"{size_hw[1]}x{size_hw[0]} px: predicted intrinsics are used",
        )
        return None

    def _step(self, frames: dict[int, Frame]) -> dict[int, Prediction]:
        self._bound_memory(frames)
        try:
            return self.session.step_many(frames)
        except (OmniStreamError, RuntimeError) as error:
            for stream in frames:
                self._refuse(stream, "model error", f"the model failed: {error}")
                self.reset([stream], "the model failed")
            return {}

    def _bound_memory(self, frames: dict[int, Frame]) -> None:
        """A session keeps memory for every image size it has met: with too many, another one takes its place."""
        sizes = {frame.size_hw for frame in frames.values()}
        if self._sizes and len(self._sizes | sizes) > MOST_IMAGE_SIZES + len(self._cameras):
            old = self.session
            self.session = StreamSession(old.model, old.config, streams=old.streams)
            self._sizes.clear()
            self.reset(
                [s for s in range(len(self._cameras)) if s not in frames], "memory of too many image sizes freed"
            )
        self._sizes |= sizes

    def _publish(self, stream: int, arrival: Arrival, frame: Frame, prediction: Prediction) -> None:
        camera = self._cameras[stream]
        if not np.isfinite(prediction.world_from_camera_44).all() or not np.isfinite(prediction.depth_m_HW).all():
            self._refuse(stream, "result not finite", "the model's result is not finite, nothing is published")
            self.reset([stream], "the model's result was not finite")
            return
        header = arrival.message.header
        start_s = time.perf_counter()
        info = camera.info if frame.camera is not None else None
        if camera.outputs.publish(StepResult(header=header, frame=frame, prediction=prediction, info=info)):
            camera.stage_ms["publish"] = _ms_since(start_s)
        camera.status.done(time.monotonic(), arrival.arrived_s, frame.stamp_ns or 0, header.frame_id, camera.stage_ms)

    def _reset(self, stream: int, reason: str) -> None:
        camera = self._cameras[stream]
        self.session.reset([stream])
        camera.outputs.reset()
        camera.status.reset(reason)
        self._warn(f"{camera.name} reset {reason.split(' ')[0]}", f"{camera.name}: the stream begins anew: {reason}")

    def _refuse(self, stream: int, reason: str, sentence: str) -> None:
        camera = self._cameras[stream]
        camera.status.refuse(reason)
        self._warn(f"{camera.name} {reason}", f"{camera.name}: {sentence}")


def _limits(settings: PerceptionSettings) -> GuardLimits:
    return GuardLimits(
        max_gap_s=settings.max_gap_s,
        max_disorder_s=settings.max_disorder_s,
        intrinsics_tolerance=settings.intrinsics_tolerance,
    )


def _ms_since(start_s: float) -> float:
    return (time.perf_counter() - start_s) * 1e3
