"""Streams held-out clips of the procedural world, many as one batch, and measures depth and pose.

Shape letters: B clips, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from omnistream_core.config import StreamConfig
from omnistream_core.evaluation.metrics import constant_per_pixel, depth_errors, trajectory_errors
from omnistream_core.model import OmniStreamModel
from omnistream_core.pretraining.world import HELD_OUT_SEED, ClipBatch, WorldConfig, render_clips
from omnistream_core.session import StreamSession
from omnistream_core.types import CameraModel, Frame, Prediction


def evaluate_world(
    model: OmniStreamModel,
    stream: StreamConfig,
    *,
    clips: int = 64,
    frames: int = 16,
    world: WorldConfig | None = None,
    batch: int = 16,
) -> dict[str, float]:
    """Mean figures over ``clips`` held-out clips, each streamed frame by frame.

    Returns:
        ``abs_rel`` and ``delta_1.25`` with one scale a clip; ``abs_rel_constant`` of the best constant-per-pixel
        predictor, fitted to these very clips at unit scale; ``abs_rel_ratio`` of the two; ``ate_m``, ``ate_origin_m``
        (staying at the origin), ``ate_straight_m`` and ``ate_ratio``, of the sums of the first two; ``rpe_t_m``,
        ``rpe_r_deg``; ``clips``, ``frames``.
    """
    world = replace(world or WorldConfig(), frames=frames)
    figures: list[dict[str, float]] = []
    truths_BTHW: list[np.ndarray] = []
    for first in range(0, clips, batch):
        seeds = range(HELD_OUT_SEED + first, HELD_OUT_SEED + min(first + batch, clips))
        rendered = render_clips(seeds, world)
        truths_BTHW.extend(rendered.depth_m_BTHW.numpy())
        predictions = stream_clips(model, stream, rendered)
        figures += [_clip_figures(p, rendered, b) for b, p in enumerate(predictions)]
    mean = {key: float(np.mean([f[key] for f in figures])) for key in figures[0]}
    constant = _constant_error(truths_BTHW)
    return mean | {
        "abs_rel_constant": constant,
        "abs_rel_ratio": mean["abs_rel"] / constant,
        "ate_ratio": mean["ate_m"] / mean["ate_origin_m"],
        "clips": clips,
        "frames": frames,
    }


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
    figures = depth_errors(depth.ravel(), rendered.depth_m_BTHW[b].numpy().ravel())
    return figures | trajectory_errors(poses, rendered.world_from_camera_BT44[b].numpy())


def _constant_error(truths_BTHW: list[np.ndarray]) -> float:
    """AbsRel, one scale a clip, of the best picture of depth that is the same for every frame."""
    unit_BTHW = [truth / np.median(truth) for truth in truths_BTHW]
    picture_HW = constant_per_pixel(np.concatenate(unit_BTHW))
    errors = [depth_errors(np.broadcast_to(picture_HW, t.shape).ravel(), t.ravel())["abs_rel"] for t in unit_BTHW]
    return float(np.mean(errors))
