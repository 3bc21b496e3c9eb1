"""What the camera does to a picture, and the laws that moving things obey.

Shapes: F frames, T moments, H rows, W columns, P pixels.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from omnistream_core.pretraining.world.cast import pixel_grid
from omnistream_core.pretraining.world.film import EFFECT, EFFECTS, blur_kernels, develop, jpeg
from omnistream_core.pretraining.world.motion import _TRACKS, GRAVITY_M_S2

HW = (48, 64)
PLAIN = {"exposure": 1.0, "red": 1.0, "green": 1.0, "blue": 1.0, "gamma": 2.2, "contrast": 1.0, "band_rows": 24.0}


def picture(frames: int = 1, **changed: float) -> torch.Tensor:
    """(F, H, W) green channel in 0..255 of an even grey wall."""
    row = torch.tensor([(PLAIN | {"seed": 7.0} | changed).get(name, 0.0) for name in EFFECTS])
    effects_EF = row[:, None].expand(-1, frames).contiguous()
    grid_2P = pixel_grid(*HW, torch.device("cpu"))
    middle_2 = torch.tensor([HW[1] / 2 - 0.5, HW[0] / 2 - 0.5])
    linear_3FP = torch.full((3, frames, HW[0] * HW[1]), 0.25)
    moment_F = torch.arange(frames, dtype=torch.int32)
    return develop(linear_3FP, effects_EF, moment_F, grid_2P, middle_2)[1].reshape(frames, *HW)


def test_a_camera_without_faults_shows_an_even_wall():
    assert picture().std() < 1e-3


def test_exposure_and_vignette_darken():
    assert picture(exposure=0.5).mean() < 0.8 * picture().mean()
    shaded_HW = picture(vignette=0.6)[0]
    assert shaded_HW[0, 0] < 0.9 * shaded_HW[24, 32]


def test_noise_is_as_strong_as_asked_and_another_in_every_frame():
    one, two = picture(frames=2, noise=0.02)
    assert one.std() == pytest.approx(255 * 0.02, rel=0.1)  # sum of two uniforms, scaled to its deviation
    assert not torch.equal(one, two)


def test_rolling_brightness_runs_over_the_rows():
    rows_FH = picture(frames=4, band=0.1, band_hz=1.0).mean(-1)
    assert (rows_FH.max(1).values - rows_FH.min(1).values > 5).all()
    assert not torch.allclose(rows_FH[0], rows_FH[2], atol=1)
    assert picture(frames=1, band=0.1)[0].std(dim=1).max() < 1e-3, "a row is lit evenly"


def test_flicker_changes_whole_frames():
    frames_FHW = picture(frames=8, flicker=0.1)
    assert frames_FHW.mean((1, 2)).std() > 1 and frames_FHW.std(dim=(1, 2)).max() < 1e-2


def test_blur_follows_the_motion_while_the_shutter_is_open():
    effects_FE = torch.zeros(3, len(EFFECTS))
    effects_FE[:, EFFECT["defocus_px"]] = torch.tensor([0.3, 0.3, 1.2])
    effects_FE[:, EFFECT["shutter"]] = 1.0
    still, moved, soft = blur_kernels(effects_FE, torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 0.0]]))[:, 0]
    assert torch.allclose(torch.stack([k.sum() for k in (still, moved, soft)]), torch.ones(3))
    assert still[3, 3] > 0.9
    assert moved[3, 1:6].sum() > 0.9 and moved[3, 1] > 10 * moved[1, 3]
    assert torch.allclose(soft, soft.T) and soft[3, 3] < 0.2


def test_jpeg_quantises_blocks_and_once_is_enough():
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, *HW) * 160 + 50
    coarse = jpeg(pixels, torch.tensor([0.0, 1.0]))
    assert torch.equal(coarse[0], pixels[0]), "a factor of 0 leaves a frame as it is"
    assert (coarse[1] - pixels[1]).abs().mean() > 5
    again = jpeg(coarse, torch.tensor([0.0, 1.0]))
    assert (again[1] - coarse[1]).abs().max() < 0.1


# ---- motion ----

TIMES_S = np.linspace(0, 2, 81)
STEP_S = TIMES_S[1]
BALL = SimpleNamespace(kind="ball", height_m=0.3, radius_m=0.15)


def track(verb: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T, 3) base, (T, 3, 3) turn, (T,) present."""
    return _TRACKS[verb](np.random.default_rng(seed), BALL, np.zeros(2), 2.5, TIMES_S, 1.0)


@pytest.mark.parametrize("verb", sorted(_TRACKS))
def test_tracks_are_rigid_and_stay_above_the_ground(verb):
    for seed in range(10):
        base_T3, turn_T33, present_T = track(verb, seed)
        turn_T33 = np.broadcast_to(turn_T33, (len(TIMES_S), 3, 3))
        assert np.allclose(turn_T33 @ turn_T33.swapaxes(1, 2), np.eye(3), atol=1e-9)
        assert np.allclose(np.linalg.det(turn_T33), 1)
        assert present_T.dtype == bool and present_T.any()
        if verb != "rolls":  # the base point of a ball goes around with it
            assert base_T3[:, 2].min() >= -1e-9


@pytest.mark.parametrize("verb", ["falls", "bounces"])
def test_free_fall_is_accelerated_by_gravity(verb):
    for seed in range(10):
        height_T = track(verb, seed)[0][:, 2]
        acceleration_T = np.diff(height_T, 2) / STEP_S**2
        free_T = np.abs(acceleration_T + GRAVITY_M_S2) < 1e-6
        at_rest_T = np.abs(acceleration_T) < 1e-6
        # The rest are the moments of a bounce, of being let go, and of coming to rest.
        assert free_T.any() and (free_T | at_rest_T).mean() > 0.7


def test_a_rolling_ball_does_not_slip():
    for seed in range(10):
        base_T3, turn_T33, _ = track("rolls", seed)
        radius_m = BALL.height_m / 2
        middle_T3 = base_T3 + turn_T33 @ np.array([0, 0, radius_m])
        assert np.allclose(middle_T3[:, 2], radius_m)
        angles_T = np.arccos(
            np.clip((np.trace(turn_T33[1:] @ turn_T33[:-1].swapaxes(1, 2), axis1=1, axis2=2) - 1) / 2, -1, 1)
        )
        way_T = np.linalg.norm(np.diff(middle_T3, axis=0), axis=1)
        assert np.allclose(angles_T * radius_m, way_T, rtol=1e-3)


def test_what_is_pushed_is_slowed_by_friction():
    for seed in range(10):
        speed_T = np.linalg.norm(np.diff(track("slides", seed)[0], axis=0), axis=1)
        moving_T = speed_T[speed_T.argmax() + 1 :]
        assert (np.diff(moving_T) < 1e-12).all()


def test_a_pendulum_keeps_its_length():
    for seed in range(10):
        base_T3, turn_T33, _ = track("swings", seed)
        up_T3 = turn_T33[:, :, 2]
        # Every bottom lies as far below one and the same pivot.
        pivots = np.linalg.lstsq(
            np.concatenate([np.tile(np.eye(3), (len(TIMES_S), 1)), -up_T3.reshape(-1, 1)], axis=1),
            base_T3.reshape(-1),
            rcond=None,
        )
        assert pivots[1].size == 0 or pivots[1][0] < 1e-9
        assert 0.8 <= pivots[0][3] <= 1.6


def test_what_appears_stays_and_what_vanishes_is_gone():
    for seed in range(10):
        appears_T, vanishes_T = (track(verb, seed)[2].astype(int) for verb in ("appears", "vanishes"))
        assert (np.diff(appears_T) >= 0).all() and appears_T[0] == 0 and appears_T[-1] == 1
        assert (np.diff(vanishes_T) <= 0).all() and vanishes_T[0] == 1 and vanishes_T[-1] == 0
