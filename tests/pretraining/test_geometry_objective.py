"""The geometry objective: what it is zero for, and what it does not see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from omnistream_core.geometry import fov_from_intrinsics, matrix_to_quaternion, pose_matrix, ray_map
from omnistream_core.pretraining.objectives import GeometryTruth, GeometryWeights, geometry_losses
from omnistream_core.types import GeometryOutput

B, T, H, W = 2, 3, 8, 12
TERMS = {"depth", "gradient", "rays", "points", "quaternion", "translation", "fov"}


def random_truth(seed: int = 0) -> GeometryTruth:
    torch.manual_seed(seed)
    return GeometryTruth(
        depth_m_BTHW=0.5 + 5 * torch.rand(B, T, H, W),
        world_from_camera_BT44=pose_matrix(torch.randn(B, T, 4), torch.randn(B, T, 3)),
        intrinsics_B33=torch.tensor(
            [[[9.0, 0, 5.5], [0, 8.0, 4.5], [0, 0, 1]], [[12.0, 0, 6], [0, 12.0, 4], [0, 0, 1]]]
        ),
    )


def perfect(truth: GeometryTruth) -> GeometryOutput:
    """The output that is right about everything, and no surer than it must be."""
    poses, matrices = truth.world_from_camera_BT44, truth.intrinsics_B33[:, None]
    return GeometryOutput(
        depth_m_BTHW=truth.depth_m_BTHW.clone(),
        confidence_BTHW=torch.ones(B, T, H, W),
        rays_BTHW6=ray_map(poses, matrices, H, W),
        quaternion_BT4=matrix_to_quaternion(poses[..., :3, :3]),
        translation_m_BT3=poses[..., :3, 3].clone(),
        fov_xy_rad_BT2=fov_from_intrinsics(matrices, H, W).expand(B, T, 2),
    )


def losses(output: GeometryOutput, truth: GeometryTruth, **weights: float) -> dict[str, Tensor]:
    return geometry_losses(output, truth, GeometryWeights(**weights))


def test_a_perfect_prediction_costs_nothing():
    truth = random_truth()
    terms = losses(perfect(truth), truth)
    assert set(terms) == TERMS
    for name, value in terms.items():
        assert float(value) == pytest.approx(0, abs=1e-5), name


def test_the_other_sign_of_a_quaternion_costs_nothing():
    truth = random_truth()
    output = perfect(truth)
    terms = losses(replace(output, quaternion_BT4=-output.quaternion_BT4), truth)
    assert float(terms["quaternion"]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("field", "change", "felt"),
    [
        ("depth_m_BTHW", lambda x: x * (1 + torch.rand_like(x)), {"depth", "gradient", "points"}),
        ("rays_BTHW6", lambda x: x + 0.1, {"rays", "points"}),
        ("quaternion_BT4", lambda x: x.roll(1, -1), {"quaternion"}),
        ("translation_m_BT3", lambda x: x + 0.1, {"translation"}),
        ("fov_xy_rad_BT2", lambda x: x + 0.1, {"fov"}),
    ],
)
def test_each_mistake_is_felt_where_it_belongs(field, change, felt):
    truth = random_truth()
    output = perfect(truth)
    terms = losses(replace(output, **{field: change(getattr(output, field))}), truth)
    assert {name for name, value in terms.items() if float(value) > 1e-3} == felt


def test_depth_is_free_of_scale_without_the_metric_share():
    truth = random_truth()
    torch.manual_seed(1)
    output = replace(perfect(truth), depth_m_BTHW=truth.depth_m_BTHW * (1 + torch.rand(B, T, H, W)))
    scaled = replace(output, depth_m_BTHW=output.depth_m_BTHW * torch.tensor([3.0, 0.2])[:, None, None, None])
    for name in ("depth", "gradient"):
        free, free_scaled = (losses(x, truth, metric=0.0)[name] for x in (output, scaled))
        assert float(free) > 0.01 and float(free_scaled) == pytest.approx(float(free), rel=1e-4)
    assert losses(scaled, truth, metric=0.3)["depth"] > losses(output, truth, metric=0.3)["depth"] + 0.05


def test_confidence_pays_off_where_the_prediction_is_right():
    truth = random_truth()
    right, sure = perfect(truth), torch.full((B, T, H, W), 4.0)
    assert losses(replace(right, confidence_BTHW=sure), truth)["depth"] < losses(right, truth)["depth"]
    torch.manual_seed(1)
    wrong = replace(right, depth_m_BTHW=truth.depth_m_BTHW * torch.exp(2 * torch.randn(B, T, H, W)))
    assert losses(replace(wrong, confidence_BTHW=sure), truth)["depth"] > losses(wrong, truth)["depth"]


@pytest.mark.parametrize("unknown", [0.0, -1.0, float("inf"), float("nan")])
def test_unknown_depth_is_not_read_and_gradients_stay_finite(unknown):
    truth = random_truth()
    holes = torch.rand(B, T, H, W) < 0.3
    holey = replace(truth, depth_m_BTHW=truth.depth_m_BTHW.masked_fill(holes, unknown))
    wild = torch.where(holes, 1e3 * torch.rand(B, T, H, W) + 1e-3, 1.1 * truth.depth_m_BTHW)
    values = []
    for depth in (1.1 * truth.depth_m_BTHW, wild):
        leaf = depth.clone().requires_grad_()
        terms = losses(replace(perfect(truth), depth_m_BTHW=leaf), holey)
        sum(terms.values()).backward()
        assert all(value.isfinite() for value in terms.values())
        assert leaf.grad.isfinite().all() and not leaf.grad[holes].any()
        values.append({name: value.item() for name, value in terms.items()})
    assert values[0] == pytest.approx(values[1], rel=1e-5, abs=1e-7)


def test_a_clip_without_any_known_depth_spoils_nothing():
    truth = random_truth()
    blind = truth.depth_m_BTHW.clone()
    blind[1] = 0
    leaf = (1.1 * truth.depth_m_BTHW).requires_grad_()
    terms = losses(replace(perfect(truth), depth_m_BTHW=leaf), replace(truth, depth_m_BTHW=blind))
    sum(terms.values()).backward()
    assert {name for name, value in terms.items() if not value.isfinite()} == set()
    assert leaf.grad.isfinite().all() and not leaf.grad[1].any()
