"""A camera that is plugged in, through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2

from omnistream_core.errors import SourceError
from omnistream_core.sources.base import FrameSource
from omnistream_core.types import Frame


class CameraSource(FrameSource):
    """Live frames of the camera with this index, for as long as they are taken; ``stamp_ns`` is the host's UTC clock.

    Raises:
        SourceError: the camera cannot be opened; while iterating: it gave no further frame.
    """

    kind = "camera"

    def __init__(self, index: int) -> None:
        super().__init__(f"camera {index}")
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(f"camera {index} cannot be opened: not there, in use, or no permission")

    def _frames(self) -> Iterator[Frame]:
        index = 0
        while True:
            is_read, image = self._capture.read()
            stamp_ns = time.time_ns()
            if not is_read or image is None:
                raise SourceError(f"{self.name}: no further frame after {index}; unplugged?")
            yield Frame(image_HW3=cv2.cvtColor(image, cv2.COLOR_BGR2RGB), index=index, stamp_ns=stamp_ns)
            index += 1

    def close(self) -> None:
        self._capture.release()
