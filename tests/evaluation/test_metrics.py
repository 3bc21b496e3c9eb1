"""Metrics against independent computations and against answers known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.spatial.transform import Rotation

from omnistream_core.evaluation.metrics import best_scale, constant_per_pixel, depth_errors, trajectory_errors


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
