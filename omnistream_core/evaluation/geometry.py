"""Geometry heads streamed over clips of the procedural world, many as one batch, against depth and poses.

Shape letters: B clips, T frames, H W pixels.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

import numpy as np

from omnistream_core.config import StreamConfig
from omnistream_core.evaluation.metrics import ate_ratios, constant_per_pixel, depth_errors, trajectory_errors
from omnistream_core.model import OmniStreamModel
from omnistream_core.pretraining.world import ClipBatch
from omnistream_core.session import StreamSession
from omnistream_core.types import CameraModel, Frame, Prediction

STREAMS_AT_ONCE = 16


def geometry(model: OmniStreamModel, stream: StreamConfig, clips: ClipBatch) -> dict[str, float]:
    """Figures of a model with geometry heads, streamed frame by frame; means over clips.

    Returns:
        ``abs_rel`` and ``delta_1.25`` with one scale a clip, ``scale``; ``ate_m``, ``ate_origin_m`` (staying at the
        origin), ``ate_straight_m`` (going straight on), the ratios of their sums; ``rpe_t_m``, ``rpe_r_deg``,
        ``path_m``. ``abs_rel_constant`` of the best picture of depth that is the same for every frame of these very
        clips; ``abs_rel_ratio`` of the two.
    """
    figures: list[dict[str, float]] = []
    for first in range(0, len(clips.images_BT3HW), STREAMS_AT_ONCE):
        part = clips.mapped(operator.itemgetter(slice(first, first + STREAMS_AT_ONCE)))
        figures += [_clip_figures(p, part, b) for b, p in enumerate(stream_clips(model, stream, part))]
    mean = {key: float(np.mean([f[key] for f in figures])) for key in figures[0]}
    constant = best_constant(clips)
    ratios = ate_ratios(figures) | {"abs_rel_constant": constant, "abs_rel_ratio": mean["abs_rel"] / constant}
    return mean | ratios


def best_constant(clips: ClipBatch) -> float:
    """AbsRel, one scale a clip, of the best picture of depth that is the same for every frame of these very clips."""
    truths_BTHW = [np.where(true > 0, true, np.inf) for true in clips.depth_m_BTHW.numpy()]  # unknown has no weight
    unit_BTHW = np.stack([true / np.median(true[np.isfinite(true)]) for true in truths_BTHW])
    picture_HW = constant_per_pixel(unit_BTHW.reshape(-1, *unit_BTHW.shape[2:]))
    return float(np.mean([_depth_errors(np.broadcast_to(picture_HW, t.shape), t)["abs_rel"] for t in unit_BTHW]))


def stream_clips(model: OmniStreamModel, stream: StreamConfig, rendered: ClipBatch) -> list[list[Prediction]]:
    """One list of T predictions for each of the B clips."""
    batch = len(rendered.images_BT3HW)
    session = StreamSession(model, stream, streams=batch)
    predictions: list[list[Prediction]] = [[] for _ in range(batch)]
    for frames in zip(*(clip_frames(rendered, b) for b in range(batch)), strict=True):
        for b, prediction in session.step_many(dict(enumerate(frames))).items():
            predictions[b].append(prediction)
    return predictions


def clip_frames(rendered: ClipBatch, b: int, *, rate_hz: float = 10.0) -> Iterator[Frame]:
    """The frames of clip ``b`` with all their truth, stamped at ``rate_hz``."""
    images_THW3 = rendered.images_BT3HW[b].permute(0, 2, 3, 1).numpy()
    (fx, _, cx), (_, fy, cy), _ = rendered.intrinsics_B33[b].tolist()
    height, width = images_THW3.shape[1:3]
    camera = CameraModel(width_px=width, height_px=height, fx_px=fx, fy_px=fy, cx_px=cx, cy_px=cy)
    for t, image in enumerate(images_THW3):
        yield Frame(
            image_HW3=np.ascontiguousarray(image),
            index=t,
            stamp_ns=round(t * 1e9 / rate_hz),
            frame_id="camera_optical_frame",
            camera=camera,
            true_depth_m_HW=rendered.depth_m_BTHW[b, t].numpy(),
            true_world_from_camera_44=rendered.world_from_camera_BT44[b, t].double().numpy(),
        )


def _clip_figures(predictions: Sequence[Prediction], rendered: ClipBatch, b: int) -> dict[str, float]:
    depth = np.stack([p.depth_m_HW for p in predictions])
    poses = np.stack([p.world_from_camera_44 for p in predictions])
    figures = _depth_errors(depth, rendered.depth_m_BTHW[b].numpy())
    return figures | trajectory_errors(poses, rendered.world_from_camera_BT44[b].numpy())


def _depth_errors(predicted_THW: np.ndarray, true_THW: np.ndarray) -> dict[str, float]:
    known = np.isfinite(true_THW) & (true_THW > 0)
    return depth_errors(predicted_THW[known], true_THW[known])
