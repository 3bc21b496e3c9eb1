"""Video files: whatever FFmpeg decodes, AV1 included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from omnistream_core.errors import SourceError
from omnistream_core.sources.base import FrameSource, counts_text
from omnistream_core.types import Frame


class VideoSource(FrameSource):
    """Frames of the first video stream of a file, turned upright where its metadata says by how much.

    Stamps are the presentation times of the file, counted from its own zero.

    Raises:
        SourceError: no video, or a broken file.
    """

    kind = "video"

    def __init__(self, path: str | Path) -> None:
        super().__init__(str(path))
        self._path = Path(path)
        with self._open() as container:
            stream = container.streams.video[0]
            self.length = stream.frames or None
            rate = stream.average_rate
            self._about: dict[str, Any] = {
                "codec": stream.codec_context.name,
                "size_px": [stream.codec_context.width, stream.codec_context.height],
                "rate_hz": float(rate) if rate else None,
                "duration_s": container.duration / av.time_base if container.duration else None,
            }

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), **self._about}

    def _open(self) -> av.container.InputContainer:
        try:
            container = av.open(str(self._path))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{self.name}: no video that can be read: {_text(error)}") from None
        if not container.streams.video:
            container.close()
            raise SourceError(f"{self.name}: no video stream in this file")
        return container

    def _frames(self) -> Iterator[Frame]:
        delivered = 0
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            reader = _Reader(container, stream, lambda detail: self._count(self.skipped, "undecodable packet", detail))
            for index, picture in enumerate(reader.pictures()):
                image_HW3 = _upright(picture)
                delivered += 1
                yield Frame(image_HW3=image_HW3, index=index, stamp_ns=_stamp_ns(picture))
        if delivered == 0:
            why = reader.damage or counts_text(self.skipped) or "it holds none"
            raise SourceError(f"{self.name}: no frame can be read: {why}")
        expected = self.length or 0
        if reader.damage or reader.packets < expected:
            why = reader.damage or f"{reader.packets} of {expected} packets are there"
            raise SourceError(f"{self.name}: truncated after {delivered} frames: {why}")


class _Reader:
    """Decodes packet by packet, so that one bad packet costs no more than itself; ``on_bad`` hears of those.

    Attributes:
        packets: those with data, seen so far.
        damage: why the container ended early; None if it did not.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: av.VideoStream, on_bad: Callable[[str], None]
    ) -> None:
        self._container, self._stream, self._on_bad = container, stream, on_bad
        self.packets = 0
        self.damage: str | None = None

    def pictures(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                self.damage = _text(error)
                return
            self.packets += packet.size > 0
            try:
                yield from cast("list[av.VideoFrame]", packet.decode())
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                self._on_bad(_text(error))


def _upright(picture: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB. ``rotation`` is what the display matrix turns the picture by, counter-clockwise degrees."""
    image_HW3 = picture.to_ndarray(format="rgb24")
    quarter_turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image_HW3, quarter_turns)) if quarter_turns else image_HW3


def _stamp_ns(picture: av.VideoFrame) -> int | None:
    if picture.pts is None or picture.time_base is None:
        return None
    return round(Fraction(picture.pts) * picture.time_base * 1_000_000_000)


def _text(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
