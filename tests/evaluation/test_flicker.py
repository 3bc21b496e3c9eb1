"""Flicker of depth that is known: none where depth follows the picture, a known one where it is shaken."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from omnistream_core.errors import OmniStreamError
from omnistream_core.evaluation.flicker import flicker, warped
from omnistream_core.types import Frame

SHIFT_PX = 3


def _scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A wide textured picture and a slope of depth that belongs to it."""
    rng = np.random.default_rng(seed)
    picture = cv2.GaussianBlur(rng.integers(0, 255, (192, 400, 3)).astype(np.float32), (0, 0), 2)
    picture = 255 * (picture - picture.min()) / np.ptp(picture)
    return picture.astype(np.uint8), np.linspace(1, 4, 400, dtype=np.float32)[None].repeat(192, 0)


class _Planted:
    """Stands for a session: knows the depth of every frame, times the factor of that frame."""

    def __init__(self, depth_HW: np.ndarray, factors: list[float], *, follows: bool = True) -> None:
        self.depth_HW, self.factors, self.follows = depth_HW, factors, follows

    def step(self, frame: Frame) -> SimpleNamespace:
        left = SHIFT_PX * frame.index if self.follows else 0
        return SimpleNamespace(depth_m_HW=self.depth_HW[:, left : left + 256] * self.factors[frame.index])


def _frames(count: int) -> list[Frame]:
    picture, _ = _scene()
    left = [SHIFT_PX * i for i in range(count)]
    return [Frame(image_HW3=np.ascontiguousarray(picture[:, x : x + 256]), index=i) for i, x in enumerate(left)]


def test_depth_that_moves_with_the_picture_does_not_flicker():
    _, depth_HW = _scene()
    figures = flicker(_Planted(depth_HW, [1.0] * 6), _frames(6))
    assert figures["flicker"] < 2e-3 and figures["flow_share"] > 0.8 and figures["pairs"] == 5
    stuck = flicker(_Planted(depth_HW, [1.0] * 6, follows=False), _frames(6))
    assert stuck["flicker"] > 5 * figures["flicker"]  # depth that stays while the picture moves


def test_a_shaken_scale_is_found_as_scale():
    _, depth_HW = _scene()
    figures = flicker(_Planted(depth_HW, [1.0, 1.2, 1.0, 1.2, 1.0]), _frames(5))
    assert figures["flicker"] == pytest.approx((0.2 + (1 - 1 / 1.2)) / 2, abs=5e-3)
    assert figures["flicker_scale"] == pytest.approx(np.log(1.2), abs=5e-3) and figures["flicker_shape"] < 2e-3


def test_warping_looks_up_where_the_flow_points():
    ramp_HW = np.arange(12, dtype=np.float32).reshape(3, 4)
    flow_HW2 = np.zeros((3, 4, 2), np.float32)
    flow_HW2[..., 0] = 1
    np.testing.assert_allclose(warped(ramp_HW, flow_HW2)[:, :3], ramp_HW[:, 1:])
    assert np.isnan(warped(ramp_HW, flow_HW2)[:, 3]).all()


def test_one_frame_alone_is_refused():
    _, depth_HW = _scene()
    with pytest.raises(OmniStreamError, match="0 pairs"):
        flicker(_Planted(depth_HW, [1.0]), _frames(1))
