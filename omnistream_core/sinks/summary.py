"""One picture that shows at a glance what the stream held and what was made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, NullFormatter

from omnistream_core.geometry import align_sim3
from omnistream_core.sinks.base import Sink
from omnistream_core.sinks.drawing import FeaturePca, colour_confidence, colour_depth, depth_range_m
from omnistream_core.sinks.points import VoxelMap, sure_pixels
from omnistream_core.types import Frame, Prediction

MAX_PATH = 4000


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """What is kept of one frame until the picture is drawn."""

    label: str
    image_HW3: np.ndarray
    depth_m_HW: np.ndarray
    true_depth_m_HW: np.ndarray | None
    confidence_HW: np.ndarray
    features_hwD: np.ndarray


class Summary(Sink):
    """``summary.png``: input, depth, confidence and features of some frames, and points and path from above.

    Args:
        path: the ``.png``.
        frames: how many frames are shown, evenly from the first to (nearly) the last.
        title: headline; None for none.
        true_path_X3: (n, 3) true camera positions in the stream's world, aligned already. Without it the poses that the
            frames bring are aligned by scale, rotation and translation, and drawn.

    Memory does not grow with the stream. The file is written by ``close``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frames: int = 4,
        title: str | None = None,
        true_path_X3: np.ndarray | None = None,
    ) -> None:
        super().__init__(path)
        self._frames, self._title, self._true_path_X3 = max(1, frames), title, true_path_X3
        self._moments = _Thinned(limit=4 * self._frames)
        self._path = _Thinned(limit=MAX_PATH)
        self._voxels = VoxelMap(0.03, 60_000)

    def _write(self, frame: Frame, prediction: Prediction) -> None:
        self._moments.offer(lambda: _moment(frame, prediction))
        self._path.offer(lambda: (prediction.world_from_camera_44[:3, 3].copy(), _true_position(frame)))
        keep_HW = sure_pixels(prediction, 0.5, 6)
        self._voxels.add(prediction.points_m_HW3[keep_HW], frame.image_HW3[keep_HW])

    def _close(self) -> None:
        figure = Figure(figsize=(19, 10), layout="constrained")
        FigureCanvasAgg(figure)
        moments = self._moments.evenly(self._frames)
        if self._title:
            figure.suptitle(self._title, fontsize=15)
        if not moments:
            figure.text(0.5, 0.5, "no frames", ha="center")
        else:
            panels: Any = figure.subfigures(1, 2, width_ratios=(len(moments) + 0.3, 2.2))
            _draw_moments(panels[0], moments)
            self._draw_from_above(panels[1].subplots())
        figure.savefig(self.path, dpi=80, format="png")

    def _draw_from_above(self, axes: Axes) -> None:
        points_X3, colours_X3 = self._voxels.points()
        path_X3 = np.stack([position for position, _ in self._path.items])
        axes.scatter(points_X3[:, 0], points_X3[:, 2], s=1.5, c=colours_X3 / 255.0, linewidths=0, rasterized=True)
        axes.plot(
            path_X3[:, 0], path_X3[:, 2], color="tab:orange", linewidth=2.5, label=f"path, {_length_m(path_X3):.2f} m"
        )
        axes.plot(*path_X3[0, [0, 2]], "o", color="tab:green", markersize=9, label="start")
        axes.plot(*path_X3[-1, [0, 2]], "s", color="tab:red", markersize=8, label="end")
        true_X3, label = self._true_path(path_X3)
        if true_X3 is not None:
            axes.plot(true_X3[:, 0], true_X3[:, 2], "--", color="black", linewidth=1.8, label=label)
        _set_view(axes, points_X3, path_X3)
        axes.set(
            title="from above: points and path", xlabel="x, right of the first camera [m]", ylabel="z, forward [m]"
        )
        axes.legend(loc="best", fontsize=10)

    def _true_path(self, path_X3: np.ndarray) -> tuple[np.ndarray | None, str]:
        if self._true_path_X3 is not None:
            return np.asarray(self._true_path_X3), "true path"
        known = [index for index, (_, true) in enumerate(self._path.items) if true is not None]
        if len(known) < 3:
            return None, ""
        true_X3 = np.stack([self._path.items[index][1] for index in known])
        scale, rotation, translation = align_sim3(torch.from_numpy(true_X3), torch.from_numpy(path_X3[known]).double())
        aligned_X3 = float(scale) * true_X3 @ rotation.numpy().T + translation.numpy()
        return aligned_X3, f"true path, aligned (scale {float(scale):.3f}), {_length_m(true_X3):.2f} m"


class _Thinned:
    """Every 2^k-th of the things offered, so many that they never exceed ``limit``."""

    def __init__(self, limit: int) -> None:
        self.items: list = []
        self._limit, self._step, self._count = limit, 1, 0

    def offer(self, make: Callable[[], Any]) -> None:
        """``make`` is called only for a thing that is kept."""
        if self._count % self._step == 0:
            self.items.append(make())
            if len(self.items) > self._limit:
                self.items, self._step = self.items[::2], self._step * 2
        self._count += 1

    def evenly(self, count: int) -> list:
        """At most ``count`` of them, from first to last."""
        places = np.unique(np.linspace(0, len(self.items) - 1, count).round().astype(int)) if self.items else []
        return [self.items[place] for place in places]


def _moment(frame: Frame, prediction: Prediction) -> _Moment:
    height, width = frame.size_hw
    every = max(1, -(-max(height, width) // 480))
    seconds = "" if prediction.stamp_ns is None else f", {prediction.stamp_ns / 1e9:.2f} s"
    true_HW = frame.true_depth_m_HW
    return _Moment(
        label=f"frame {prediction.index}{seconds}",
        image_HW3=frame.image_HW3[::every, ::every].copy(),
        depth_m_HW=prediction.depth_m_HW[::every, ::every].copy(),
        true_depth_m_HW=None if true_HW is None else true_HW[::every, ::every].copy(),
        confidence_HW=prediction.confidence_HW[::every, ::every].copy(),
        features_hwD=prediction.features_hwD.copy(),
    )


def _draw_moments(figure: SubFigure, moments: list[_Moment]) -> None:
    true_depths = [m.true_depth_m_HW for m in moments if m.true_depth_m_HW is not None]
    near_m, far_m = depth_range_m([m.depth_m_HW for m in moments] + true_depths)
    pca = FeaturePca(fit_frames=len(moments))
    for moment in moments:
        pca.observe(moment.features_hwD)
    names = ["input", "depth", *(["true depth"] if true_depths else []), "confidence", "features\n(3 components)"]
    grid = figure.subplots(len(names), len(moments), squeeze=False)
    for column, moment in enumerate(moments):
        grid[0, column].set_title(moment.label, fontsize=11)
        pictures = [moment.image_HW3, colour_depth(moment.depth_m_HW, near_m, far_m)]
        if true_depths:
            pictures.append(_true_picture(moment, near_m, far_m))
        pictures.append(colour_confidence(moment.confidence_HW, most=_most_confident(moments)))
        pictures.append(pca.colours(moment.features_hwD, moment.image_HW3.shape[:2]))
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name, fontsize=12)
    depth_rows = 2 if true_depths else 1
    _add_scale(figure, list(grid[1 : 1 + depth_rows].flat), near_m, far_m)


def _add_scale(figure: SubFigure, axes: list[Axes], near_m: float, far_m: float) -> None:
    colours = colour_depth(np.geomspace(near_m, far_m, 256)[None], near_m, far_m)[0] / 255.0
    scale = ScalarMappable(norm=LogNorm(near_m, far_m), cmap=ListedColormap(colours))
    bar = figure.colorbar(scale, ax=axes, label="depth [m]", pad=0.01)
    bar.set_ticks([float(f"{value:.2g}") for value in np.geomspace(near_m * 1.02, far_m * 0.98, 4)])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())


def _true_picture(moment: _Moment, near_m: float, far_m: float) -> np.ndarray:
    if moment.true_depth_m_HW is None:
        return np.full_like(moment.image_HW3, 235)
    return colour_depth(moment.true_depth_m_HW, near_m, far_m)


def _most_confident(moments: list[_Moment]) -> float:
    return float(np.percentile(np.concatenate([moment.confidence_HW.ravel()[::7] for moment in moments]), 98))


def _true_position(frame: Frame) -> np.ndarray | None:
    pose_44 = frame.true_world_from_camera_44
    return None if pose_44 is None else pose_44[:3, 3].copy()


def _length_m(path_X3: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(path_X3, axis=0), axis=-1).sum())


def _set_view(axes: Axes, points_X3: np.ndarray, path_X3: np.ndarray) -> None:
    """Equal scales; the path and 96 % of the points in view."""
    shown = path_X3[:, [0, 2]]
    if len(points_X3):
        shown = np.concatenate((shown, np.percentile(points_X3[:, [0, 2]], (2, 98), axis=0)))
    low, high = shown.min(0), shown.max(0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2 * 1.1, 0.1)
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
