"""Streams a source through a session and measures depth and pose against the truth that the source carries.

Shape letters: T frames, H W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from omnistream_core.errors import OmniStreamError
from omnistream_core.evaluation.metrics import depth_errors, trajectory_errors
from omnistream_core.session import StreamSession
from omnistream_core.types import Frame, Prediction

PIXELS_PER_FRAME = 40_000  # are looked at for the metrics, evenly spread


@dataclass
class StreamScore:
    """Collects frames with their predictions, then sums them up. Frames without truth only count for time."""

    seconds: list[float] = field(default_factory=list)
    _depth: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _poses: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, frame: Frame, prediction: Prediction, seconds: float) -> None:
        """Take one frame, its prediction and how long the prediction took."""
        self.seconds.append(seconds)
        if frame.true_depth_m_HW is not None:
            self._depth.append(_valid_pixels(prediction.depth_m_HW, frame.true_depth_m_HW))
        if frame.true_world_from_camera_44 is not None:
            self._poses.append((prediction.world_from_camera_44, frame.true_world_from_camera_44))

    def summary(self) -> dict[str, float]:
        """``frames``, ``ms_per_frame_p50/p95/p99`` and, where there was truth, the keys of ``depth_errors`` (with
        ``abs_rel_constant``, one depth for all pixels, and ``abs_rel_flat_wall``, the mean over frames of one depth
        each, its median) and of ``trajectory_errors``."""
        figures: dict[str, float] = {"frames": len(self.seconds)}
        if self.seconds:
            p50, p95, p99 = np.percentile(np.array(self.seconds) * 1e3, (50, 95, 99))
            figures |= {"ms_per_frame_p50": p50, "ms_per_frame_p95": p95, "ms_per_frame_p99": p99}
        depth = [pair for pair in self._depth if len(pair[0])]
        if depth:
            predicted, true = (np.concatenate(side) for side in zip(*depth, strict=True))
            figures |= depth_errors(predicted, true)
            figures["abs_rel_constant"] = depth_errors(np.ones_like(true), true)["abs_rel"]
            flat = [np.mean(np.abs(np.median(t) - t) / t) for _, t in depth]
            figures["abs_rel_flat_wall"] = float(np.mean(flat))
        if len(self._poses) > 2:
            predicted_T44, true_T44 = (np.stack(side) for side in zip(*self._poses, strict=True))
            figures |= trajectory_errors(predicted_T44, true_T44)
        return {k: float(v) for k, v in figures.items()}


def evaluate(session: StreamSession, frames: Iterable[Frame]) -> dict[str, float]:
    """Stream ``frames`` and return ``StreamScore.summary()``.

    Raises:
        OmniStreamError: not one frame came.
    """
    score = StreamScore()
    for frame in frames:
        start = time.perf_counter()
        prediction = session.step(frame)
        score.add(frame, prediction, time.perf_counter() - start)
    if not score.seconds:
        raise OmniStreamError("there was no frame to evaluate")
    return score.summary()


def _valid_pixels(predicted_HW: np.ndarray, true_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = max(1, true_HW.size // PIXELS_PER_FRAME)
    predicted_X, true_X = predicted_HW.ravel()[::step], true_HW.ravel()[::step]
    valid_X = np.isfinite(true_X) & (true_X > 0)
    return predicted_X[valid_X], true_X[valid_X]
