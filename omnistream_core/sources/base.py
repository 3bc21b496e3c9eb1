"""What every source of frames can do."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch

from omnistream_core.geometry import pose_matrix
from omnistream_core.types import CameraModel, Frame

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class FrameSource(ABC):
    """Frames of one camera, in order of time: iterate it, and close it or use it in a ``with`` block.

    Each ``iter()`` starts anew and sets the counts below back to nothing; a live camera goes on where it is.

    Attributes:
        name: what the user would call it, as a path or a topic.
        length: frames that the container announces, those that turn out malformed included; None if unknown.
        skipped: malformed frames left out so far, reason -> count. ``Frame.index`` counts them.
        repaired: frames mended so far, what was done -> count.
        ignored: camera or truth data that could not be used so far, reason -> count.
    """

    kind: str = ""

    def __init__(self, name: str) -> None:
        self.name = name
        self.length: int | None = None
        self.skipped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Frame]:
        """The frames.

        Raises:
            SourceError: where the recording ends before its time, after the frames that can be read; also if no frame
                at all can be read.
        """
        for counts in (self.skipped, self.repaired, self.ignored):
            counts.clear()
        return self._frames()

    @abstractmethod
    def _frames(self) -> Iterator[Frame]: ...

    def describe(self) -> dict[str, Any]:
        """What a person wants to know of it, JSON types only: kind, name, length and what the kind adds."""
        return {"kind": self.kind, "name": self.name, "length": self.length}

    def close(self) -> None:  # noqa: B027  a source without handles has nothing to close
        """Free what it holds. May be called more than once."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _count(self, counts: Counter[str], reason: str, detail: str = "") -> None:
        """Count, and warn of the first of each reason."""
        if reason not in counts:
            logger.warning("%s: %s%s", self.name, reason, f" ({detail})" if detail else "")
        counts[reason] += 1


def counts_text(counts: Counter[str]) -> str:
    """``"3 empty image, 1 zero size"``, for messages."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def describe_camera(camera: CameraModel | None) -> dict[str, Any] | None:
    """A camera in JSON types; pixel-corner convention as everywhere."""
    if camera is None:
        return None
    return {
        "size_px": [camera.width_px, camera.height_px],
        "focal_px": [camera.fx_px, camera.fy_px],
        "centre_px": [camera.cx_px, camera.cy_px],
        "distortion_model": camera.distortion_model,
    }


def pose_from_numbers(translation: Iterable[float], quaternion_wxyz: Iterable[float]) -> np.ndarray | None:
    """(4, 4) float64 rigid transform; None for numbers that are not finite or a quaternion of no length."""
    t, q = np.array(list(translation), dtype=np.float64), np.array(list(quaternion_wxyz), dtype=np.float64)
    if not (np.isfinite(t).all() and np.isfinite(q).all()) or np.linalg.norm(q) < 1e-6:
        return None
    return pose_matrix(torch.from_numpy(q), torch.from_numpy(t)).numpy()
