"""Training objectives: what they are zero for, what they do not see, and that training resumes where it stopped."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from omnistream_core.config import BackboneConfig, HeadConfig, ModelConfig
from omnistream_core.geometry import fov_from_intrinsics, matrix_to_quaternion, points_from_rays, pose_matrix, ray_map
from omnistream_core.model import build_model
from omnistream_core.preprocess import normalise
from omnistream_core.pretraining.objectives import GeometryTruth, GeometryWeights, geometry_losses
from omnistream_core.pretraining.state import load_state, save_state
from omnistream_core.pretraining.trainer import make_optimizers, mirrored, truth_of
from omnistream_core.pretraining.world import WorldConfig, render_clips
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


# ---- the world in a mirror, and training on it ----

WORLD = WorldConfig(height_px=32, width_px=32, frames=3, supersample=1)


@pytest.fixture(scope="module")
def clips():
    return render_clips([3, 5], WORLD)


def test_a_mirrored_clip_is_the_mirror_image_of_the_scene(clips):
    """Rays turn with the image, and each pixel's point is the mirror image of the point that was there."""
    flipped = mirrored(clips)
    assert torch.equal(flipped.images_BT3HW, clips.images_BT3HW.flip(-1))
    rays, mirror_rays = (ray_map(c.world_from_camera_BT44, c.intrinsics_B33[:, None], 32, 32) for c in (clips, flipped))
    other_side = torch.tensor([-1.0, 1, 1])
    assert torch.allclose(mirror_rays, rays.flip(3) * torch.cat((other_side, other_side)), atol=1e-5)
    points, mirror_points = (points_from_rays(r, c.depth_m_BTHW) for r, c in ((rays, clips), (mirror_rays, flipped)))
    assert torch.allclose(mirror_points, points.flip(3) * other_side, atol=1e-4)
    rotation = flipped.world_from_camera_BT44[..., :3, :3]
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(2, 3), atol=1e-5)
    twice = mirrored(flipped)
    for name in (f.name for f in fields(clips) if getattr(clips, f.name) is not None):
        assert torch.equal(getattr(twice, name), getattr(clips, name)), name


def small_model() -> torch.nn.Module:
    backbone = BackboneConfig(width=48, depth=4, heads=2, levels=(0, 1, 2, 3), patch_px=8, rope_rescale=1.0)
    torch.manual_seed(0)
    heads = HeadConfig(features=8, ray_features=8, camera_hidden=16)
    return build_model(ModelConfig(backbone=backbone, heads=heads)).train()


def train_on(clips, model, optimizers, steps: int) -> list[float]:
    """Losses of plain steps on the same clips."""
    images, history = normalise(model.config.preprocess, clips.images_BT3HW), []
    for _ in range(steps):
        loss = sum(geometry_losses(model(images).geometry, truth_of(clips), GeometryWeights()).values())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        history.append(float(loss.detach()))
    return history


def test_a_resumed_training_goes_on_bitwise_as_if_never_stopped(clips, tmp_path):
    whole = small_model()
    optimizers = make_optimizers(whole, lr=3e-3)
    history = train_on(clips, whole, optimizers, 2)
    save_state(tmp_path / "state.safetensors", whole, optimizers, {"step": 2, "note": "a b"})
    history += train_on(clips, whole, optimizers, 2)

    again = small_model()
    fresh = make_optimizers(again, lr=3e-3)
    assert load_state(tmp_path / "state.safetensors", again, fresh) == {"step": 2, "note": "a b"}
    assert train_on(clips, again, fresh, 2) == history[2:]
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert history[-1] < history[0], "nothing was learnt"

    forgetful = small_model()  # the moments matter: without them the same steps lead elsewhere
    load_state(tmp_path / "state.safetensors", forgetful, make_optimizers(forgetful, lr=3e-3))
    assert train_on(clips, forgetful, make_optimizers(forgetful, lr=3e-3), 2) != history[2:]


def test_a_state_is_whole_or_absent(clips, tmp_path, monkeypatch):
    model = small_model()
    path = tmp_path / "state.safetensors"
    save_state(path, model, make_optimizers(model, lr=1e-3), {"step": 1})
    before = path.read_bytes()

    def cut_short(tensors, where, metadata):
        where.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("omnistream_core.pretraining.state.save_file", cut_short)
    with pytest.raises(OSError, match="no space"):
        save_state(path, model, make_optimizers(model, lr=1e-3), {"step": 2})
    assert path.read_bytes() == before
