"""The scene as one cloud of points, in binary PLY.

The file is written here, in a dozen lines, so that a robot needs no point cloud library (and its system libraries) to
save one; MeshLab, CloudCompare and Open3D read it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from omnistream_core.errors import SinkError
from omnistream_core.sinks.base import Sink
from omnistream_core.types import Frame, Prediction

logger = logging.getLogger(__name__)

_AXIS_BITS = 21  # voxels along one axis: 2^21, the world's origin in their middle
_HALF = 1 << (_AXIS_BITS - 1)


class VoxelMap:
    """The mean point and colour of each voxel that was hit, in bounded memory.

    Beyond ``max_points`` voxels the edge is doubled, as often as needed: the whole stream stays in, coarser. Points
    outside of 2^20 first edges around the origin are left out.
    """

    def __init__(self, voxel_m: float, max_points: int) -> None:
        self.voxel_m = voxel_m
        self._max_points = max_points
        self._keys_X: np.ndarray = np.empty(0, np.int64)
        self._sums_X6: np.ndarray = np.empty((0, 6), np.float64)
        self._counts_X: np.ndarray = np.empty(0, np.float64)

    def __len__(self) -> int:
        return len(self._keys_X)

    def add(self, points_X3: np.ndarray, colours_X3: np.ndarray) -> None:
        """(n, 3) metres and (n, 3) uint8; points that are not finite are left out."""
        with np.errstate(invalid="ignore"):
            cells_X3 = np.floor(points_X3.astype(np.float64) / self.voxel_m)
            is_inside = (np.abs(cells_X3) < _HALF).all(-1)
        values_X6 = np.concatenate((points_X3[is_inside], colours_X3[is_inside]), axis=-1).astype(np.float64)
        self._merge(_pack(cells_X3[is_inside].astype(np.int64)), values_X6, np.ones(len(values_X6)))
        while len(self) > self._max_points:
            self._coarsen()

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """((n, 3) float32 metres, (n, 3) uint8 colours)."""
        means_X6 = self._sums_X6 / np.maximum(self._counts_X, 1)[:, None]
        return means_X6[:, :3].astype(np.float32), np.rint(means_X6[:, 3:]).astype(np.uint8)

    def _merge(self, keys_X: np.ndarray, sums_X6: np.ndarray, counts_X: np.ndarray) -> None:
        keys_X, sums_X6, counts_X = _grouped(keys_X, sums_X6, counts_X)
        places_X = np.searchsorted(self._keys_X, keys_X)
        is_known = np.zeros(len(keys_X), bool)
        in_range = places_X < len(self)
        is_known[in_range] = self._keys_X[places_X[in_range]] == keys_X[in_range]
        self._sums_X6[places_X[is_known]] += sums_X6[is_known]
        self._counts_X[places_X[is_known]] += counts_X[is_known]
        new = ~is_known
        self._keys_X = np.insert(self._keys_X, places_X[new], keys_X[new])
        self._sums_X6 = np.insert(self._sums_X6, places_X[new], sums_X6[new], axis=0)
        self._counts_X = np.insert(self._counts_X, places_X[new], counts_X[new])

    def _coarsen(self) -> None:
        logger.warning("more than %d voxels of %g m: their edge is doubled", self._max_points, self.voxel_m)
        self.voxel_m *= 2
        keys_X = _pack(_unpack(self._keys_X) >> 1)
        self._keys_X, self._sums_X6, self._counts_X = _grouped(keys_X, self._sums_X6, self._counts_X)


class PointCloud(Sink):
    """One ``.ply`` of the stream: x y z float32 metres in the stream's world (its first camera, OpenCV axes), r g b.

    Args:
        path: the ``.ply``.
        voxel_m: edge of the voxels that points are averaged over, metres.
        max_points: bound of memory and file; beyond it voxels grow, see ``VoxelMap``.
        drop_quantile: share of each frame's points, the least sure, that is left out, 0 to below 1.
        stride_px: every how manieth pixel of rows and columns is taken.
        max_depth_m: points farther than this from their camera are left out; None keeps all.

    The file is written by ``close``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        voxel_m: float = 0.02,
        max_points: int = 1_000_000,
        drop_quantile: float = 0.3,
        stride_px: int = 2,
        max_depth_m: float | None = None,
    ) -> None:
        if not (voxel_m > 0 and max_points >= 8 and 0 <= drop_quantile < 1 and stride_px > 0):
            raise SinkError(
                f"voxel_m {voxel_m}, max_points {max_points}, drop_quantile {drop_quantile}, stride_px {stride_px}: "
                "all above 0, max_points at least 8 and drop_quantile in [0, 1) are needed"
            )
        super().__init__(path)
        self.voxels = VoxelMap(voxel_m, max_points)
        self._drop_quantile, self._stride_px, self._max_depth_m = drop_quantile, stride_px, max_depth_m

    def _write(self, frame: Frame, prediction: Prediction) -> None:
        keep_HW = sure_pixels(prediction, self._drop_quantile, self._stride_px, self._max_depth_m)
        self.voxels.add(prediction.points_m_HW3[keep_HW], frame.image_HW3[keep_HW])

    def _close(self) -> None:
        write_ply(self.path, *self.voxels.points())


def sure_pixels(
    prediction: Prediction, drop_quantile: float, stride_px: int, max_depth_m: float | None = None
) -> np.ndarray:
    """(H, W) bool: pixels on the grid of ``stride_px`` whose confidence is not among the lowest share of that grid."""
    keep_HW = np.zeros(prediction.depth_m_HW.shape, bool)
    grid = (slice(stride_px // 2, None, stride_px), slice(stride_px // 2, None, stride_px))
    confidence_hw = prediction.confidence_HW[grid]
    keep_HW[grid] = confidence_hw >= np.quantile(confidence_hw, drop_quantile)
    if max_depth_m is not None:
        keep_HW &= prediction.depth_m_HW <= max_depth_m
    return keep_HW


def write_ply(path: Path, points_X3: np.ndarray, colours_X3: np.ndarray) -> None:
    """Binary little-endian PLY of (n, 3) metres and (n, 3) uint8 colours."""
    properties = [(name, "float") for name in ("x", "y", "z")] + [(name, "uchar") for name in ("red", "green", "blue")]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres; x right, y down, z forward of the first camera",
    ]
    header += [
        f"element vertex {len(points_X3)}",
        *(f"property {kind} {name}" for name, kind in properties),
        "end_header",
    ]
    rows_X = np.empty(len(points_X3), [(name, "<f4" if kind == "float" else "u1") for name, kind in properties])
    for column, name in enumerate(("x", "y", "z")):
        rows_X[name] = points_X3[:, column]
    for column, name in enumerate(("red", "green", "blue")):
        rows_X[name] = colours_X3[:, column]
    path.write_bytes(("\n".join(header) + "\n").encode("ascii") + rows_X.tobytes())


def _grouped(
    keys_X: np.ndarray, sums_X6: np.ndarray, counts_X: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of equal key added up; keys ascending and unique."""
    if len(keys_X) == 0:
        return keys_X, sums_X6, counts_X
    order = np.argsort(keys_X, kind="stable")
    unique, starts = np.unique(keys_X[order], return_index=True)
    return unique, np.add.reduceat(sums_X6[order], starts, axis=0), np.add.reduceat(counts_X[order], starts)


def _pack(cells_X3: np.ndarray) -> np.ndarray:
    shifted_X3 = cells_X3 + _HALF
    return (shifted_X3[:, 0] << 2 * _AXIS_BITS) | (shifted_X3[:, 1] << _AXIS_BITS) | shifted_X3[:, 2]


def _unpack(keys_X: np.ndarray) -> np.ndarray:
    mask = (1 << _AXIS_BITS) - 1
    return np.stack((keys_X >> 2 * _AXIS_BITS, (keys_X >> _AXIS_BITS) & mask, keys_X & mask), axis=-1) - _HALF
