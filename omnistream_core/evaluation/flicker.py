"""Depth flicker: how much the depth of the same surface changes from one frame of a video to the next.

No truth is needed. The depth of the frame before is brought to the present one by optical flow; pixels whose flow does
not lead back to where it came from (occlusions, blur) are left out.

Shape letters: H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import cv2
import numpy as np

from omnistream_core.errors import OmniStreamError
from omnistream_core.session import StreamSession
from omnistream_core.types import Frame

FLOW_WIDTH_PX = 256
RETURN_PX = 1.0  # how near the flow there and back must come to its start
LEAST_KNOWN = 0.1  # of the pixels, for a pair of frames to count


def flicker(session: StreamSession, frames: Iterable[Frame]) -> dict[str, float]:
    """Stream ``frames`` and compare the depth of each with that of the one before.

    Returns:
        ``flicker``: mean |d / w - 1| of depth d and warped depth w before it, mean over pairs of frames. It holds what
        really changes as well: a camera that advances by 1 % of the depth a frame cannot be below 0.01.
        ``flicker_shape``: mean |log(d / w) - its median over the picture|, the part that is no common scale.
        ``flicker_scale``: standard deviation over time of that median, the scale's own jitter.
        ``flow_share``: share of pixels whose flow could be followed; ``pairs``, ``pairs_compared``: of frames.

    Raises:
        OmniStreamError: no two frames could be compared.
    """
    seen = ((_small_gray(frame.image_HW3), session.step(frame).depth_m_HW) for frame in frames)
    pairs = [_change(*_log_ratio(*before, *now)) for before, now in pairwise(seen)]
    kept_X4 = np.array([pair for pair in pairs if pair[3] >= LEAST_KNOWN])
    if not len(kept_X4):
        raise OmniStreamError(f"{len(pairs)} pairs of frames: none shows enough of the same for flow to follow")
    change, shape, scale, _ = kept_X4.T
    return {
        "flicker": float(change.mean()),
        "flicker_shape": float(shape.mean()),
        "flicker_scale": float(scale.std()),
        "flow_share": float(np.mean([pair[3] for pair in pairs])),
        "pairs": len(pairs),
        "pairs_compared": len(kept_X4),
    }


def warped(map_HW: np.ndarray, flow_HW2: np.ndarray) -> np.ndarray:
    """``map_HW`` looked up where the flow (x, y in pixels) points to; NaN outside of the picture."""
    height, width = map_HW.shape
    x_HW, y_HW = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x_HW, y_HW = x_HW + flow_HW2[..., 0], y_HW + flow_HW2[..., 1]
    inside_HW = (x_HW >= 0) & (x_HW <= width - 1) & (y_HW >= 0) & (y_HW <= height - 1)
    looked_up_HW = cv2.remap(map_HW, x_HW, y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside_HW, looked_up_HW, np.nan)


def _change(ratio_X: np.ndarray, share: float) -> tuple[float, float, float, float]:
    """Change, change of shape and change of scale of one pair, and the share of pixels they rest on."""
    if share < LEAST_KNOWN:
        return 0.0, 0.0, 0.0, share
    median = float(np.median(ratio_X))
    return float(np.abs(np.exp(ratio_X) - 1).mean()), float(np.abs(ratio_X - median).mean()), median, share


def _log_ratio(
    gray_before_HW: np.ndarray, depth_before_HW: np.ndarray, gray_HW: np.ndarray, depth_HW: np.ndarray
) -> tuple[np.ndarray, float]:
    """log(depth / warped depth before) of the pixels that can be followed, and their share."""
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    back_HW2 = solver.calc(gray_HW, gray_before_HW, np.zeros((*gray_HW.shape, 2), np.float32))
    forth_HW2 = solver.calc(gray_before_HW, gray_HW, np.zeros((*gray_HW.shape, 2), np.float32))
    returned_HW2 = back_HW2 + np.stack([warped(forth_HW2[..., i], back_HW2) for i in range(2)], axis=-1)
    size = (gray_HW.shape[1], gray_HW.shape[0])
    log_HW, log_before_HW = (
        np.log(cv2.resize(d, size, interpolation=cv2.INTER_AREA)) for d in (depth_HW, depth_before_HW)
    )
    ratio_HW = log_HW - warped(log_before_HW, back_HW2)
    known_HW = (np.linalg.norm(returned_HW2, axis=-1) < RETURN_PX) & np.isfinite(ratio_HW)
    return ratio_HW[known_HW], float(known_HW.mean())


def _small_gray(image_HW3: np.ndarray) -> np.ndarray:
    height, width = image_HW3.shape[:2]
    size = (FLOW_WIDTH_PX, max(16, round(height * FLOW_WIDTH_PX / width)))
    return cv2.resize(cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
