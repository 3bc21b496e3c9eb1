"""Message bytes to arrays: what sensor_msgs/Image and sensor_msgs/CompressedImage carry, without ROS.

Used for recordings and by the ROS 2 node alike. Shape letters: H W pixels.
"""

from __future__ import annotations

import struct
from array import array
from typing import Any

import cv2
import numpy as np

from omnistream_core.errors import SourceError

Buffer = bytes | bytearray | memoryview | array | np.ndarray

# encoding -> (bytes per pixel, OpenCV conversion to RGB; None where the pixels are RGB already)
_COLOUR_8BIT: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUYV),
    # ROS names the first two pixels of the first row; OpenCV's short names the second row's, from its second column.
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
}
_GRAY_16BIT = ("mono16", "16UC1")
_EVEN_WIDTH = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")

IMAGE_ENCODINGS: tuple[str, ...] = (*_COLOUR_8BIT, *_GRAY_16BIT)
DEPTH_ENCODINGS: tuple[str, ...] = ("16UC1", "mono16", "32FC1")


class UnknownEncodingError(SourceError):
    """An encoding that nothing here can decode: every image of the topic will fail the same way."""


class ImageError(SourceError):
    """One malformed image, its neighbours may be fine. ``reason`` is the same for all images with the same fault."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def decode_image(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Buffer
) -> np.ndarray:
    """The pixels of a sensor_msgs/Image as (H, W, 3) uint8 RGB, in memory of its own.

    ``step`` is the length of a row in bytes, padding included; bytes beyond ``step * height`` are ignored. ``8UC3`` and
    ``8UC4`` are taken for OpenCV's order, BGR(A). 16-bit gray is brought to 8 bits: ``mono16`` by its full range,
    ``16UC1`` by the fewest bits, of 8, 10, 12, 14 or 16, that hold the brightest pixel.

    Raises:
        UnknownEncodingError: an encoding outside ``IMAGE_ENCODINGS``.
        ImageError: zero size, a step shorter than a row, data shorter than ``step * height``.
    """
    if encoding in _GRAY_16BIT:
        gray_HW = _rows(encoding, height, width, 2, step, data).view(_dtype("u2", is_bigendian))
        return cv2.cvtColor(_to_8bit(gray_HW, full_range=encoding == "mono16"), cv2.COLOR_GRAY2RGB)
    if encoding not in _COLOUR_8BIT:
        raise UnknownEncodingError(f"unknown encoding {encoding!r}; supported: {', '.join(IMAGE_ENCODINGS)}")
    if encoding in _EVEN_WIDTH and width % 2:
        raise ImageError("odd width", f"{encoding} {width}x{height} px, two pixels share their colour")
    pixel_bytes, conversion = _COLOUR_8BIT[encoding]
    rows_HX = _rows(encoding, height, width, pixel_bytes, step, data)
    if encoding.startswith("bayer") and min(height, width) < 3:
        raise ImageError("too small", f"{encoding} {width}x{height} px, at least 3x3 are needed")
    pixels = rows_HX if pixel_bytes == 1 else rows_HX.reshape(height, width, pixel_bytes)
    return pixels.copy() if conversion is None else cv2.cvtColor(pixels, conversion)


def decode_compressed(data: Buffer, format: str = "") -> np.ndarray:
    """The pixels of a sensor_msgs/CompressedImage (JPEG, PNG or what else OpenCV reads) as (H, W, 3) uint8 RGB.

    The bytes themselves tell the format; ``format`` is the message's field, for refusals and error messages.

    Raises:
        UnknownEncodingError: the ``compressedDepth`` transport, which carries no picture.
        ImageError: no data, a JPEG without its end, bytes that do not decode.
    """
    if "compresseddepth" in format.lower():
        raise UnknownEncodingError(f"format {format!r} holds depth; supported here: jpeg, png")
    data_X = _bytes_array(data)
    _check_compressed(data_X, format)
    image = cv2.imdecode(data_X, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ImageError("undecodable compressed image", f"{data_X.size} bytes, format {format!r}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_depth(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Buffer
) -> np.ndarray:
    """The depth of a sensor_msgs/Image as (H, W) float32 metres, 0 where unknown.

    REP 118: ``16UC1`` in millimetres with 0 for unknown, ``32FC1`` in metres with NaN for unknown; infinities and
    negative values count as unknown. ``mono16`` is taken for ``16UC1``, as which some cameras record their depth.

    Raises:
        UnknownEncodingError: an encoding outside ``DEPTH_ENCODINGS``.
        ImageError: zero size, a step shorter than a row, data shorter than ``step * height``.
    """
    if encoding not in DEPTH_ENCODINGS:
        raise UnknownEncodingError(f"unknown depth encoding {encoding!r}; supported: {', '.join(DEPTH_ENCODINGS)}")
    if encoding == "32FC1":
        metres_HW = _rows(encoding, height, width, 4, step, data).view(_dtype("f4", is_bigendian)).astype(np.float32)
        return np.where(np.isfinite(metres_HW) & (metres_HW > 0), metres_HW, np.float32(0))
    millimetres_HW = _rows(encoding, height, width, 2, step, data).view(_dtype("u2", is_bigendian))
    return millimetres_HW.astype(np.float32) * np.float32(0.001)


def decode_compressed_depth(data: Buffer, format: str) -> np.ndarray:
    """The depth of a ``compressedDepth`` message as (H, W) float32 metres, 0 where unknown.

    Its PNG follows a header of 12 bytes: uint32 kind, float32 a, float32 b. ``16UC1`` is stored as it is, millimetres;
    ``32FC1`` as inverse depth, metres = a / (value - b).

    Raises:
        UnknownEncodingError: a format that names neither encoding.
        ImageError: no data, bytes that do not decode to 16-bit gray.
    """
    data_X = _bytes_array(data)
    if data_X.size <= 12:
        raise ImageError("empty image", f"{data_X.size} bytes, format {format!r}")
    stored_HW = cv2.imdecode(data_X[12:], cv2.IMREAD_UNCHANGED)
    if stored_HW is None or stored_HW.ndim != 2 or stored_HW.dtype != np.uint16:
        raise ImageError("undecodable compressed depth", f"{data_X.size} bytes, format {format!r}")
    if format.startswith("16UC1"):
        return stored_HW.astype(np.float32) * np.float32(0.001)
    if format.startswith("32FC1"):
        _, quant_a, quant_b = struct.unpack("<Iff", data_X[:12].tobytes())
        known_HW = stored_HW > quant_b
        inverse_HW = np.where(known_HW, stored_HW - quant_b, 1)
        return np.where(known_HW & (stored_HW > 0), quant_a / inverse_HW, 0).astype(np.float32)
    raise UnknownEncodingError(f"unknown compressedDepth format {format!r}; supported: 16UC1, 32FC1")


def _rows(encoding: str, height: int, width: int, pixel_bytes: int, step: int, data: Buffer) -> np.ndarray:
    """(H, W * pixel_bytes) uint8, the row padding cut off, contiguous."""
    size = f"{encoding} {width}x{height} px"
    if height <= 0 or width <= 0:
        raise ImageError("zero size", size)
    if step < width * pixel_bytes:
        raise ImageError("step shorter than a row", f"{size} needs {width * pixel_bytes} bytes a row, step is {step}")
    data_X = _bytes_array(data)
    if data_X.size == 0:
        raise ImageError("empty image", f"{size} without data")
    if data_X.size < step * height:
        raise ImageError(
            "data shorter than step * height", f"{size}, step {step}: {step * height} bytes needed, {data_X.size} there"
        )
    rows_HX = data_X[: step * height].reshape(height, step)[:, : width * pixel_bytes]
    return np.ascontiguousarray(rows_HX)


def _bytes_array(data: Buffer) -> np.ndarray:
    """(n,) uint8 view of the bytes."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    return np.frombuffer(data, dtype=np.uint8)


def _dtype(kind: str, is_bigendian: bool | int) -> np.dtype[Any]:
    return np.dtype((">" if is_bigendian else "<") + kind)


def _to_8bit(gray_HW: np.ndarray, *, full_range: bool) -> np.ndarray:
    bits = 16
    if not full_range:
        needed = int(gray_HW.max()).bit_length()
        bits = next(candidate for candidate in (8, 10, 12, 14, 16) if needed <= candidate)
    return (gray_HW >> (bits - 8)).astype(np.uint8)


def _check_compressed(data_X: np.ndarray, format: str) -> None:
    if data_X.size == 0:
        raise ImageError("empty image", f"compressed image without data, format {format!r}")
    # A JPEG cut short decodes to gray below the cut. Its last marker is FF D9; drivers may pad what follows.
    is_jpeg = data_X[:2].tobytes() == b"\xff\xd8"
    if is_jpeg and b"\xff\xd9" not in data_X[-4096:].tobytes().rstrip(b"\0")[-64:]:
        raise ImageError("JPEG cut short", f"{data_X.size} bytes without an end marker, format {format!r}")
