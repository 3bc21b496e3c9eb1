"""Videos of depth and of features beside the input, H.264 in MP4."""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from omnistream_core.errors import SinkError
from omnistream_core.sinks.base import Sink
from omnistream_core.sinks.drawing import FeaturePca, colour_depth, depth_legend, depth_range_m
from omnistream_core.types import Frame, Prediction

ENCODERS = ("libx264", "libopenh264", "h264_nvenc", "h264")


class _SideBySide(Sink):
    """Input left, a drawing right. The first ``fit_frames`` frames wait in memory until they have set the scale.

    One picture a frame at ``rate_hz``, whatever the stamps say. Every picture has the size of the first.
    """

    def __init__(
        self, path: str | Path, *, rate_hz: float = 30.0, fit_frames: int = 8, max_width_px: int = 640
    ) -> None:
        super().__init__(path)
        if rate_hz <= 0 or fit_frames < 1 or max_width_px < 16:
            raise SinkError(
                f"{path}: rate_hz {rate_hz}, fit_frames {fit_frames}, max_width_px {max_width_px}: "
                "a rate above 0, at least 1 frame and 16 px are needed"
            )
        self._rate, self._fit_frames, self._max_width_px = (
            Fraction(rate_hz).limit_denominator(1001),
            fit_frames,
            max_width_px,
        )
        self._waiting: list[tuple[np.ndarray, np.ndarray]] | None = []
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None

    @abstractmethod
    def _select(self, prediction: Prediction) -> np.ndarray:
        """The part of a prediction that is drawn."""

    @abstractmethod
    def _fit(self, values: list[np.ndarray]) -> None:
        """Set the scale from the first values."""

    @abstractmethod
    def _draw(self, value: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        """One value as an RGB image of ``size_hw``."""

    def _legend(self, width_px: int) -> np.ndarray | None:
        """A strip below the picture."""
        return None

    def _write(self, frame: Frame, prediction: Prediction) -> None:
        image_HW3, value = self._shrunk(frame.image_HW3), self._select(prediction)
        if self._waiting is None:
            self._encode(image_HW3, value)
            return
        self._waiting.append((image_HW3, value))
        if len(self._waiting) >= self._fit_frames:
            self._flush_waiting()

    def _flush_waiting(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        if waiting:
            self._fit([value for _, value in waiting])
        for image_HW3, value in waiting:
            self._encode(image_HW3, value)

    def _encode(self, image_HW3: np.ndarray, value: np.ndarray) -> None:
        picture = np.hstack((image_HW3, self._draw(value, image_HW3.shape[:2])))
        legend = self._legend(picture.shape[1])
        picture = picture if legend is None else np.vstack((picture, legend))
        if self._stream is None:
            self._container, self._stream = self._open(picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2)
        assert self._container is not None
        size_wh = (self._stream.width, self._stream.height)
        even = picture[: size_wh[1], : size_wh[0]]
        if even.shape[:2] != size_wh[::-1]:
            even = cv2.resize(picture, size_wh)
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")):
            self._container.mux(packet)

    def _open(self, width_px: int, height_px: int) -> tuple[av.container.OutputContainer, av.VideoStream]:
        container = av.open(str(self.path), "w", format="mp4", options={"movflags": "+faststart"})
        stream = container.add_stream(_encoder(self.path), rate=self._rate)
        if not isinstance(stream, av.VideoStream):
            raise SinkError(f"{self.path}: the encoder made no video stream")
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"} if stream.codec_context.name == "libx264" else {}
        return container, stream

    def _close(self) -> None:
        try:
            self._flush_waiting()
        finally:
            if self._container is not None and self._stream is not None:
                for packet in self._stream.encode(None):
                    self._container.mux(packet)
                self._container.close()
            else:
                self.path.unlink(missing_ok=True)  # not one frame: no file is better than an empty one

    def _shrunk(self, image_HW3: np.ndarray) -> np.ndarray:
        height, width = image_HW3.shape[:2]
        if width <= self._max_width_px:
            return image_HW3
        size_wh = (self._max_width_px, max(2, round(height * self._max_width_px / width)))
        return cv2.resize(image_HW3, size_wh, interpolation=cv2.INTER_AREA)


class DepthVideo(_SideBySide):
    """Depth as colours, near red and far blue, with its scale in metres below.

    The scale is the 2nd to 98th percentile of the first ``fit_frames`` frames, widened by 1.5 to both sides, equal
    steps for equal ratios; it holds for the whole video.
    """

    def _select(self, prediction: Prediction) -> np.ndarray:
        return prediction.depth_m_HW

    def _fit(self, values: list[np.ndarray]) -> None:
        near_m, far_m = depth_range_m(values)
        self._range_m = (near_m / 1.5, far_m * 1.5)

    def _draw(self, value: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        depth_HW = cv2.resize(value, size_hw[::-1], interpolation=cv2.INTER_NEAREST)
        return colour_depth(depth_HW, *self._range_m)

    def _legend(self, width_px: int) -> np.ndarray:
        return depth_legend(width_px, *self._range_m)


class FeaturePcaVideo(_SideBySide):
    """Patch features as colours, their three principal components over the first ``fit_frames`` frames."""

    def _select(self, prediction: Prediction) -> np.ndarray:
        return prediction.features_hwD

    def _fit(self, values: list[np.ndarray]) -> None:
        self._pca = FeaturePca(fit_frames=len(values))
        for value in values:
            self._pca.observe(value)

    def _draw(self, value: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        return self._pca.colours(value, size_hw)


def _encoder(path: Path) -> str:
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except (ValueError, av.error.FFmpegError):
            continue
        return name
    raise SinkError(f"{path}: FFmpeg has no H.264 encoder here; one of {', '.join(ENCODERS)} is needed")
