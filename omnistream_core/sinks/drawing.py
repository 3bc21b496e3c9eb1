"""Arrays to colours, for files and for the ROS 2 node alike. Images are (H, W, 3) uint8 RGB.

Shape letters: H W pixels, h w patches, D channels, N patches of several frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MAX_PCA_PATCHES = 4096


def depth_range_m(depths_HW: Sequence[np.ndarray]) -> tuple[float, float]:
    """(near, far) metres for a colour scale: the 2nd and 98th percentile of all known depths, at least 10 % apart."""
    known = np.concatenate([depth[np.isfinite(depth) & (depth > 0)][::7] for depth in depths_HW] or [np.ones(1)])
    if known.size == 0:
        return 0.1, 10.0
    near, far = (float(value) for value in np.percentile(known, (2, 98)))
    return near, max(far, near * 1.1)


def colour_depth(depth_HW: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """(H, W) metres to colours, near red, far blue, equal steps for equal ratios of depth; unknown (0, NaN) is black.

    The scale is given, not found, so that a depth keeps its colour through a video.
    """
    known_HW = np.isfinite(depth_HW) & (depth_HW > 0)
    ratio_HW = np.log(np.where(known_HW, depth_HW, near_m) / near_m) / np.log(far_m / near_m)
    colours = _colour_map(1.0 - ratio_HW, cv2.COLORMAP_TURBO)
    colours[~known_HW] = 0
    return colours


def colour_confidence(confidence_HW: np.ndarray, most: float | None = None) -> np.ndarray:
    """(H, W) confidence >= 1 to colours, dark 1, bright ``most`` (98th percentile unless given)."""
    most = float(np.percentile(confidence_HW, 98)) if most is None else most
    return _colour_map(np.log(np.maximum(confidence_HW, 1)) / np.log(max(most, 1.01)), cv2.COLORMAP_VIRIDIS)


def depth_legend(width_px: int, near_m: float, far_m: float, height_px: int = 28) -> np.ndarray:
    """(height_px, width_px, 3) strip of the colours of ``colour_depth`` from near to far with both in metres."""
    depths_W = np.geomspace(near_m, far_m, width_px)
    strip = np.ascontiguousarray(colour_depth(np.repeat(depths_W[None], height_px, axis=0), near_m, far_m))
    texts = (f"{near_m:.2f} m", f"{far_m:.2f} m")
    for text, at_x in zip(texts, (6, width_px - 6 - _text_width(texts[1])), strict=True):
        cv2.putText(strip, text, (at_x, height_px - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(strip, text, (at_x, height_px - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return strip


class FeaturePca:
    """Patch features as colours: their first three principal components as red, green and blue.

    Components and their ranges come from the first ``fit_frames`` frames and are held from then on, so that a thing
    keeps its colour. Until then they are found anew with each frame, from all frames so far.
    """

    def __init__(self, fit_frames: int = 8) -> None:
        self._fit_frames = fit_frames
        self._seen: list[np.ndarray] = []
        self._count = 0
        self._basis: _Basis | None = None

    @property
    def is_fitted(self) -> bool:
        """The components are found and held."""
        return self._count >= self._fit_frames

    def observe(self, features_hwD: np.ndarray) -> None:
        """Let a frame take part in the fit; without effect once it is done."""
        if self.is_fitted:
            return
        patches_ND = np.asarray(features_hwD, dtype=np.float32).reshape(-1, features_hwD.shape[-1])
        keep = max(1, MAX_PCA_PATCHES // self._fit_frames)
        self._seen.append(patches_ND[:: max(1, -(-len(patches_ND) // keep))].copy())
        self._count += 1
        self._basis = _principal_components(np.concatenate(self._seen))
        if self._count == self._fit_frames:
            self._seen.clear()

    def colours(self, features_hwD: np.ndarray, size_hw: tuple[int, int] | None = None) -> np.ndarray:
        """(h, w, 3) colours, or (H, W, 3) interpolated to ``size_hw``; a first frame is observed."""
        if self._basis is None:
            self.observe(features_hwD)
        assert self._basis is not None
        basis = self._basis
        parts_hw3 = (np.asarray(features_hwD, dtype=np.float32) - basis.mean_D) @ basis.axes_D3
        unit_hw3 = np.clip((parts_hw3 - basis.low_3) / np.maximum(basis.high_3 - basis.low_3, 1e-6), 0, 1)
        colours = (unit_hw3 * 255).astype(np.uint8)
        return colours if size_hw is None else cv2.resize(colours, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


@dataclass(frozen=True, kw_only=True)
class _Basis:
    mean_D: np.ndarray
    axes_D3: np.ndarray
    low_3: np.ndarray
    high_3: np.ndarray


def _principal_components(patches_ND: np.ndarray) -> _Basis:
    mean_D = patches_ND.mean(0)
    centred_ND = patches_ND - mean_D
    _, vectors_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    axes_D3 = vectors_DD[:, ::-1][:, :3]
    if axes_D3.shape[1] < 3:
        axes_D3 = np.pad(axes_D3, ((0, 0), (0, 3 - axes_D3.shape[1])))
    # the sign of an eigenvector is arbitrary: its largest entry is made positive
    largest_3 = np.abs(axes_D3).argmax(0)
    axes_D3 = axes_D3 * np.where(axes_D3[largest_3, np.arange(3)] < 0, -1, 1)
    low_3, high_3 = np.percentile(centred_ND @ axes_D3, (2, 98), axis=0)
    return _Basis(mean_D=mean_D, axes_D3=axes_D3, low_3=low_3, high_3=high_3)


def _colour_map(unit_HW: np.ndarray, colour_map: int) -> np.ndarray:
    levels_HW = (np.clip(np.nan_to_num(unit_HW), 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels_HW, colour_map), cv2.COLOR_BGR2RGB)


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0])
