"""Metrics against independent computations and against answers known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.optimize import minimize_scalar
from scipy.spatial.transform import Rotation
from sklearn.metrics import jaccard_score

from omnistream_core.evaluation.metrics import (
    angular_errors_deg,
    ate_ratios,
    best_scale,
    boundary,
    boundary_accuracy,
    confusion,
    constant_per_pixel,
    depth_errors,
    mean_iou,
    mean_relative_accuracy,
    region_similarity,
    trajectory_errors,
)


@given(st.integers(0, 10_000))
def test_best_scale_is_not_beaten_by_a_search(seed):
    rng = np.random.default_rng(seed)
    predicted, true = rng.uniform(0.5, 5, 101), rng.uniform(0.5, 5, 101)

    def error(scale: float) -> float:
        return float(np.mean(np.abs(scale * predicted - true) / true))

    found = minimize_scalar(error, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    assert error(best_scale(predicted, true)) <= found.fun + 1e-9


def test_depth_errors_of_a_scaled_truth_are_zero_and_of_a_known_mistake_known():
    true = np.linspace(1, 9, 1000)
    exact = depth_errors(true / 3, true)
    assert exact["abs_rel"] == pytest.approx(0, abs=1e-12) and exact["delta_1.25"] == 1
    assert exact["scale"] == pytest.approx(3)
    wrong = true.copy()
    wrong[:100] *= 1.5  # a tenth of the pixels half too far: the scale stays with the others
    assert depth_errors(wrong, true) == pytest.approx({"abs_rel": 0.05, "delta_1.25": 0.9, "scale": 1.0})


def test_constant_per_pixel_is_the_best_constant_of_each_pixel():
    rng = np.random.default_rng(0)
    true = rng.uniform(0.5, 5, (31, 3, 4))
    picture = constant_per_pixel(true)
    for i in range(3):
        for j in range(4):
            candidates = [np.sum(np.abs(c - true[:, i, j]) / true[:, i, j]) for c in true[:, i, j]]
            own = np.sum(np.abs(picture[i, j] - true[:, i, j]) / true[:, i, j])
            assert own == pytest.approx(min(candidates))


def _path(seed: int, frames: int = 30) -> np.ndarray:
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, 3] = np.cumsum(rng.normal(size=(frames, 3)), axis=0)
    poses[:, :3, :3] = Rotation.from_rotvec(np.cumsum(rng.normal(scale=0.1, size=(frames, 3)), axis=0)).as_matrix()
    return poses


def test_a_path_in_another_world_and_unit_has_no_error():
    true = _path(0)
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("xyz", [0.4, -1.0, 2.0]).as_matrix()
    moved[:3, 3] = [5, -3, 1]
    predicted = moved @ true
    predicted[:, :3, 3] *= 0.37
    errors = trajectory_errors(predicted, true)
    assert errors["ate_m"] < 1e-9 and errors["rpe_t_m"] < 1e-9 and errors["rpe_r_deg"] < 1e-5


def test_trajectory_errors_agree_with_evo():
    metrics = pytest.importorskip("evo.core.metrics")
    from evo.core.trajectory import PosePath3D

    true, predicted = _path(1), _path(1)
    predicted[:, :3, 3] += np.random.default_rng(2).normal(scale=0.3, size=(len(predicted), 3))
    reference, estimate = PosePath3D(poses_se3=list(true)), PosePath3D(poses_se3=list(predicted))
    estimate.align(reference, correct_scale=True)
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((reference, estimate))
    assert trajectory_errors(predicted, true)["ate_m"] == pytest.approx(ape.get_statistic(metrics.StatisticsType.rmse))
    rpe = metrics.RPE(metrics.PoseRelation.rotation_angle_deg, 1, metrics.Unit.frames)
    rpe.process_data((reference, estimate))
    expected = rpe.get_statistic(metrics.StatisticsType.rmse)
    assert trajectory_errors(predicted, true)["rpe_r_deg"] == pytest.approx(expected, abs=1e-4)


def test_baselines_of_a_straight_walk():
    true = np.tile(np.eye(4), (11, 1, 1))
    true[:, 0, 3] = np.arange(11)
    errors = trajectory_errors(np.tile(np.eye(4), (11, 1, 1)), true)
    assert errors["ate_origin_m"] == errors["ate_m"] == pytest.approx(np.sqrt(10.0))
    assert errors["ate_straight_m"] == pytest.approx(0, abs=1e-9)
    assert errors["path_m"] == pytest.approx(10)


def test_ratios_are_of_sums_over_clips():
    errors = [
        {"ate_m": 1.0, "ate_origin_m": 2.0, "ate_straight_m": 0.5},
        {"ate_m": 2.0, "ate_origin_m": 4.0, "ate_straight_m": 1.5},
    ]
    assert ate_ratios(errors) == pytest.approx({"ate_ratio": 0.5, "ate_straight_ratio": 1.5})


def test_mean_iou_is_that_of_scikit_learn_over_the_classes_that_occur():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 500), rng.integers(0, 5, 500)  # class 4 is predicted but never true
    expected = jaccard_score(true, predicted, labels=[0, 1, 2, 3], average="macro")
    assert mean_iou(confusion(predicted, true, 5)) == pytest.approx(expected)


@given(st.integers(0, 1000))
def test_angles_between_directions_are_those_of_rotations(seed):
    rng = np.random.default_rng(seed)
    angle, axis, start = rng.uniform(0, np.pi), rng.normal(size=3), rng.normal(size=3)
    start -= axis * (start @ axis) / (axis @ axis)  # turned about an axis at right angles, by just the angle
    turned = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).apply(start)
    assert angular_errors_deg(3 * turned[None], start[None])[0] == pytest.approx(np.degrees(angle), abs=1e-5)


def _square(top: int, left: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((48, 64), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_perfect_mask_scores_one_and_so_does_nothing_where_nothing_is():
    for mask in (_square(10, 10), np.zeros((48, 64), bool)):
        assert region_similarity(mask, mask) == boundary_accuracy(mask, mask) == 1
    assert region_similarity(_square(0, 0), ~_square(0, 0)) == 0
    assert boundary_accuracy(_square(0, 0), np.zeros((48, 64), bool)) == 0


def test_a_shifted_square_scores_as_by_hand():
    true, shifted = _square(10, 10), _square(10, 15)
    assert region_similarity(shifted, true) == pytest.approx(15 / 25)  # 15 columns shared, 25 covered by either
    # Tolerance: 0.008 * 80 px diagonal, rounded up to 1 px. Of a boundary of 80 pixels (20 + 20 rows and columns with
    # one corner) those of the two horizontal edges that run within 1 px of the other's match.
    ring = boundary(true)
    reach = np.zeros_like(ring)
    for dy, dx in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
        reach |= np.roll(ring, (dy, dx), (0, 1))
    share = (boundary(shifted) & reach).sum() / ring.sum()
    assert boundary_accuracy(shifted, true) == pytest.approx(share) and 0.3 < share < 0.5
    assert boundary_accuracy(_square(10, 11), true) == 1  # a shift within the tolerance costs nothing


def test_boundary_f_measure_of_any_masks_is_that_of_scipy():
    rng = np.random.default_rng(0)
    one, two = (ndimage.gaussian_filter(rng.normal(size=(60, 80)), 4) > 0 for _ in range(2))
    disk = np.hypot(*np.mgrid[-1:2, -1:2]) <= 1  # 0.008 * 100 px, rounded up
    precision = f1_precision = (boundary(one) & ndimage.binary_dilation(boundary(two), disk)).sum() / boundary(
        one
    ).sum()
    recall = (boundary(two) & ndimage.binary_dilation(boundary(one), disk)).sum() / boundary(two).sum()
    assert boundary_accuracy(one, two) == pytest.approx(2 * precision * recall / (f1_precision + recall))
    assert region_similarity(one, two) == pytest.approx(jaccard_score(two.ravel(), one.ravel()))


def test_mean_relative_accuracy_by_hand():
    # Off by 0 %: right at all ten levels; by 12 %: at 0.5 ... 0.85; by 60 %: at none; no number: at none.
    assert mean_relative_accuracy(np.array([2.0]), np.array([2.0])) == 1
    assert mean_relative_accuracy(np.array([1.12]), np.array([1.0])) == pytest.approx(0.8)
    assert mean_relative_accuracy(np.array([0.4]), np.array([1.0])) == 0
    answers, truth = np.array([2.0, 1.12, 0.4, np.nan, 0.0]), np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    assert mean_relative_accuracy(answers, truth) == pytest.approx((1 + 0.8 + 0 + 0 + 1) / 5)
