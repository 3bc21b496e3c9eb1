"""Whether an image goes on with a stream, begins it anew, or is left out. No ROS, no model, no clock: headers only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnistream_core.errors import ConfigError
from omnistream_core.types import CameraModel

# Stamps that run forward in the past are a clock that was set back; fewer are stragglers.
STALE_IN_ORDER_FOR_A_JUMP = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to do with one image.

    Attributes:
        accept: False leaves the image out.
        reset_reason: why the stream begins anew with this image, one plain clause; "" if it goes on.
    """

    accept: bool
    reset_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class GuardLimits:
    """
    Attributes:
        max_gap_s: seconds without an image after which the scene counts as another one.
        max_disorder_s: a stamp up to this many seconds before its predecessor is a straggler; beyond, time jumped.
        intrinsics_tolerance: relative change of a focal length, or of the principal point over the focal length, that
            counts as another camera; autofocus moves them a little.
    """

    max_gap_s: float = 2.0
    max_disorder_s: float = 0.5
    intrinsics_tolerance: float = 0.02

    def __post_init__(self) -> None:
        for name in ("max_gap_s", "max_disorder_s", "intrinsics_tolerance"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: more than 0 is needed")


class StreamGuard:
    """Looks at the headers of one camera's images in the order of their arrival."""

    def __init__(self, limits: GuardLimits) -> None:
        self.limits = limits
        self._stamp_ns: int | None = None
        self._size_hw: tuple[int, int] | None = None
        self._frame_id = ""
        self._camera: CameraModel | None = None
        self._stale_ns: list[int] = []

    def check(
        self,
        *,
        stamp_ns: int,
        size_hw: tuple[int, int],
        frame_id: str,
        camera: CameraModel | None = None,
        silence_s: float | None = None,
    ) -> Verdict:
        """The verdict on the next image; an accepted one becomes what its successor is compared with.

        ``silence_s`` is the longest pause between images that arrived since the last one seen here, where some were
        left out: a camera that is faster than the model makes no gap. None where none was.
        """
        reason = self._jump(stamp_ns, silence_s)
        if reason is None:
            return Verdict(accept=False)
        reason = reason or self._change(size_hw, frame_id, camera)
        if reason:
            self._camera = None
        self._stamp_ns, self._size_hw, self._frame_id = stamp_ns, size_hw, frame_id
        self._camera = camera or self._camera
        self._stale_ns.clear()
        return Verdict(accept=True, reset_reason=reason)

    def forget(self) -> None:
        """The next image is the first of its stream, whatever came before."""
        self._stamp_ns = self._size_hw = self._camera = None
        self._stale_ns.clear()

    def _jump(self, stamp_ns: int, silence_s: float | None) -> str | None:
        """Why time broke off; "" if it did not; None for a straggler or a repeated stamp."""
        if self._stamp_ns is None:
            return ""
        ahead_s = (stamp_ns - self._stamp_ns) / 1e9
        gap_s = ahead_s if silence_s is None else min(ahead_s, silence_s)
        if gap_s > self.limits.max_gap_s:
            return f"gap of {gap_s:.1f} s between images (max_gap_s is {self.limits.max_gap_s:g})"
        if ahead_s > 0:
            return ""
        if -ahead_s > self.limits.max_disorder_s or self._runs_forward(stamp_ns):
            return f"time jumped back by {-ahead_s:.1f} s"
        return None

    def _runs_forward(self, stale_ns: int) -> bool:
        if self._stale_ns and stale_ns <= self._stale_ns[-1]:
            self._stale_ns.clear()
        self._stale_ns.append(stale_ns)
        return len(self._stale_ns) >= STALE_IN_ORDER_FOR_A_JUMP

    def _change(self, size_hw: tuple[int, int], frame_id: str, camera: CameraModel | None) -> str:
        if self._size_hw is None:
            return ""
        if size_hw != self._size_hw:
            return f"image size changed from {_size(self._size_hw)} to {_size(size_hw)} px"
        if frame_id != self._frame_id:
            return f"camera frame changed from {self._frame_id!r} to {frame_id!r}"
        if camera is not None and self._camera is not None and self._differs(camera, self._camera):
            return f"intrinsics changed from {_focal(self._camera)} to {_focal(camera)}"
        return ""

    def _differs(self, camera: CameraModel, known: CameraModel) -> bool:
        now, before = (np.array([c.fx_px, c.fy_px, c.cx_px, c.cy_px]) for c in (camera, known))
        scale = np.array([known.fx_px, known.fy_px, known.fx_px, known.fy_px])
        return bool((np.abs(now - before) / scale > self.limits.intrinsics_tolerance).any())


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"


def _focal(camera: CameraModel) -> str:
    return f"f ({camera.fx_px:.1f}, {camera.fy_px:.1f}) c ({camera.cx_px:.1f}, {camera.cy_px:.1f}) px"
