"""Message bytes to pixels, against conversions made another way."""

from __future__ import annotations

import struct
from array import array

import cv2
import numpy as np
import pytest

from omnistream_core.errors import SourceError
from omnistream_core.sources.image_codec import (
    IMAGE_ENCODINGS,
    ImageError,
    UnknownEncodingError,
    decode_compressed,
    decode_compressed_depth,
    decode_depth,
    decode_image,
)

RGB = (200, 120, 40)


def smooth(height: int = 16, width: int = 24) -> np.ndarray:
    """(H, W, 3) RGB with a gradient of its own in each channel."""
    y, x = np.mgrid[:height, :width]
    x, y = x / width, y / height
    return np.stack((40 + 150 * x, 30 + 160 * y, 200 - 80 * x - 60 * y), axis=-1).astype(np.uint8)


def packed(encoding: str, image_HW3: np.ndarray) -> np.ndarray:
    """The same picture in another encoding, by hand."""
    alpha = np.full((*image_HW3.shape[:2], 1), 77, np.uint8)
    bgr = image_HW3[..., ::-1]
    by_name = {
        "rgb8": image_HW3,
        "bgr8": bgr,
        "8UC3": bgr,
        "rgba8": np.concatenate((image_HW3, alpha), -1),
        "bgra8": np.concatenate((bgr, alpha), -1),
        "8UC4": np.concatenate((bgr, alpha), -1),
    }
    return np.ascontiguousarray(by_name[encoding])


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "8UC4"])
@pytest.mark.parametrize("padding", [0, 5])
def test_colour_survives_channel_order_and_row_padding(encoding: str, padding: int) -> None:
    image_HW3 = smooth()
    rows_HX = packed(encoding, image_HW3).reshape(16, -1)
    step = rows_HX.shape[1] + padding
    data = np.pad(rows_HX, ((0, 0), (0, padding)), constant_values=255).tobytes()
    decoded = decode_image(encoding, 16, 24, step, 0, data)
    np.testing.assert_array_equal(decoded, image_HW3)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous and decoded.flags.writeable


def rgb_to_yuv(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """BT.601, studio range."""
    r, g, b = (value / 255 for value in rgb)
    luma = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    return round(luma), round(128 - 37.797 * r - 74.203 * g + 112 * b), round(128 + 112 * r - 93.786 * g - 18.214 * b)


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")])
def test_yuv422_colours(encoding: str, order: str) -> None:
    y, u, v = rgb_to_yuv(RGB)
    quad = {"uyvy": (u, y, v, y), "yuyv": (y, u, y, v)}[order]
    data = bytes(quad) * (4 * 3)  # 8 x 3 px
    decoded = decode_image(encoding, 3, 8, 16, 0, data)
    assert np.abs(decoded.astype(int) - RGB).max() <= 3


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_colours_follow_the_name(pattern: str) -> None:
    value = {"r": RGB[0], "g": RGB[1], "b": RGB[2]}
    tile = np.array([[value[pattern[0]], value[pattern[1]]], [value[pattern[2]], value[pattern[3]]]], np.uint8)
    mosaic_HW = np.tile(tile, (6, 8))
    decoded = decode_image(f"bayer_{pattern}8", 12, 16, 16, 0, mosaic_HW.tobytes())
    np.testing.assert_array_equal(decoded[2:-2, 2:-2].reshape(-1, 3), np.tile(RGB, (8 * 12, 1)))


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_gray_fills_three_channels(encoding: str) -> None:
    gray_HW = smooth()[..., 0]
    np.testing.assert_array_equal(decode_image(encoding, 16, 24, 24, 0, gray_HW.tobytes()), np.dstack([gray_HW] * 3))


@pytest.mark.parametrize("is_bigendian", [0, 1])
def test_16_bit_gray_in_both_byte_orders(is_bigendian: int) -> None:
    gray_HW = np.linspace(0, 65535, 12 * 10).astype(np.uint16).reshape(12, 10)
    data = gray_HW.astype(">u2" if is_bigendian else "<u2").tobytes()
    decoded = decode_image("mono16", 12, 10, 20, is_bigendian, data)
    np.testing.assert_array_equal(decoded[..., 1], gray_HW // 256)
    as_12_bit = (gray_HW // 16).astype(">u2" if is_bigendian else "<u2").tobytes()
    np.testing.assert_array_equal(decode_image("16UC1", 12, 10, 20, is_bigendian, as_12_bit)[..., 1], gray_HW // 256)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: array("B", data)])
def test_any_buffer_will_do(kind: type) -> None:
    image_HW3 = smooth()
    np.testing.assert_array_equal(decode_image("rgb8", 16, 24, 72, 0, kind(image_HW3.tobytes())), image_HW3)


def test_trailing_bytes_are_ignored_and_the_input_is_left_alone() -> None:
    image_HW3 = smooth()
    data = np.frombuffer(image_HW3.tobytes() + b"\1\2\3\4", np.uint8).copy()
    before = data.copy()
    decoded = decode_image("rgb8", 16, 24, 72, 0, data)
    decoded[:] = 0
    np.testing.assert_array_equal(data, before)


def test_unknown_encoding_names_it_and_the_supported_ones() -> None:
    with pytest.raises(UnknownEncodingError) as caught:
        decode_image("nv21", 4, 4, 4, 0, bytes(24))
    assert "nv21" in str(caught.value)
    assert all(encoding in str(caught.value) for encoding in IMAGE_ENCODINGS)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnknownEncodingError, match="32FC1"):
        decode_depth("8UC3", 4, 4, 12, 0, bytes(48))


@pytest.mark.parametrize(
    ("arguments", "reason", "numbers"),
    [
        (("rgb8", 4, 4, 12, 0, bytes(47)), "data shorter than step * height", ("48", "47", "4x4")),
        (("rgb8", 4, 4, 11, 0, bytes(48)), "step shorter than a row", ("12", "11")),
        (("rgb8", 0, 4, 12, 0, b""), "zero size", ("4x0",)),
        (("mono8", 4, 4, 4, 0, b""), "empty image", ("4x4",)),
        (("yuv422", 4, 3, 6, 0, bytes(24)), "odd width", ("3x4",)),
        (("bayer_rggb8", 1, 1, 1, 0, bytes(1)), "too small", ("1x1",)),
        (("mono16", 2, 4, 8, 0, bytes(15)), "data shorter than step * height", ("16", "15")),
    ],
)
def test_a_malformed_image_says_what_is_wrong(arguments: tuple, reason: str, numbers: tuple[str, ...]) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(*arguments)
    assert caught.value.reason == reason
    assert isinstance(caught.value, SourceError)
    assert all(number in str(caught.value) for number in (*numbers, arguments[0]))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_pictures(suffix: str) -> None:
    image_HW3 = smooth(64, 96)
    data = cv2.imencode(suffix, image_HW3[..., ::-1])[1].tobytes()
    decoded = decode_compressed(data, f"rgb8; {suffix[1:]} compressed bgr8")
    assert np.abs(decoded.astype(int) - image_HW3).max() <= (0 if suffix == ".png" else 8)


def test_a_jpeg_that_ends_early_is_refused_and_one_with_padding_is_not() -> None:
    data = cv2.imencode(".jpg", smooth(64, 96))[1].tobytes()
    with pytest.raises(ImageError, match="cut short"):
        decode_compressed(data[: len(data) * 2 // 3], "jpeg")
    assert decode_compressed(data + bytes(100), "jpeg").shape == (64, 96, 3)


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty image"), (b"no picture", "undecodable compressed image")])
def test_what_is_no_compressed_picture_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_compressed(data, "png")
    assert caught.value.reason == reason


def test_compressed_depth_is_no_picture() -> None:
    with pytest.raises(UnknownEncodingError, match="compressedDepth"):
        decode_compressed(b"x", "16UC1; compressedDepth png")


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1"])
def test_depth_is_in_metres_with_zero_for_unknown(encoding: str, is_bigendian: int) -> None:
    metres_HW = np.array([[0.0, 0.5, 1.25], [2.0, 3.75, 10.0]], np.float32)
    stored = metres_HW if encoding == "32FC1" else (metres_HW * 1000).astype(np.uint16)
    stored = stored.astype(stored.dtype.newbyteorder(">" if is_bigendian else "<"))
    rows_HX = np.frombuffer(stored.tobytes(), np.uint8).reshape(2, -1)
    data = np.pad(rows_HX, ((0, 0), (0, 6)))
    depth_HW = decode_depth(encoding, 2, 3, data.shape[1], is_bigendian, data.tobytes())
    assert depth_HW.dtype == np.float32
    np.testing.assert_allclose(depth_HW, metres_HW, rtol=1e-6)


def test_depth_that_is_nan_infinite_or_negative_is_unknown() -> None:
    stored = np.array([[np.nan, np.inf, -np.inf, -1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(decode_depth("32FC1", 1, 5, 20, 0, stored.tobytes()), [[0, 0, 0, 0, 2]])


def test_compressed_depth_in_both_encodings() -> None:
    metres_HW = np.array([[0.5, 1.0], [2.0, 4.0]], np.float32)
    png = cv2.imencode(".png", (metres_HW * 1000).astype(np.uint16))[1].tobytes()
    depth_HW = decode_compressed_depth(bytes(12) + png, "16UC1; compressedDepth png")
    np.testing.assert_allclose(depth_HW, metres_HW)
    quant_a, quant_b = 100.0 * 101.0, -99.0
    inverse = np.rint(quant_a / metres_HW + quant_b).astype(np.uint16)
    inverse[0, 0] = 0
    data = struct.pack("<Iff", 0, quant_a, quant_b) + cv2.imencode(".png", inverse)[1].tobytes()
    depth_HW = decode_compressed_depth(data, "32FC1; compressedDepth")
    assert depth_HW[0, 0] == 0
    np.testing.assert_allclose(depth_HW[1], metres_HW[1], rtol=1e-3)
