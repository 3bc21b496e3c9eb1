"""The procedural world: seeds, geometry and configuration.

Shapes: B clips, T frames, H rows, W columns, N pixels.
"""

import dataclasses

import numpy as np
import pytest
import torch

from omnistream_core.pretraining.world import WorldConfig, render_clips, sample_scene

SMALL = WorldConfig(height_px=24, width_px=32, frames=4)
STATIC = dataclasses.replace(SMALL, height_px=48, width_px=64, moving_share=0.0, supersample=1)


@pytest.fixture(scope="module")
def clips():
    return render_clips([3, 5, 8], SMALL)


def test_same_seed_same_clip_whatever_the_batch(clips):
    alone = render_clips([5], SMALL)
    for part in dataclasses.fields(clips):
        assert torch.equal(getattr(clips, part.name)[1:2], getattr(alone, part.name)), part.name


def test_seeds_differ(clips):
    first, second = clips.images_BT3HW[:2].float()
    assert (first - second).abs().mean() > 5


def test_shapes_types_and_finite_depth(clips):
    assert clips.images_BT3HW.shape == (3, 4, 3, 24, 32) and clips.images_BT3HW.dtype == torch.uint8
    assert clips.depth_m_BTHW.shape == clips.instance_BTHW.shape == (3, 4, 24, 32)
    assert clips.instance_BTHW.dtype == torch.int16 and clips.instance_BTHW.min() >= 0
    assert torch.isfinite(clips.depth_m_BTHW).all() and (clips.depth_m_BTHW > 0).all()


def test_poses_are_rigid_and_start_at_identity(clips):
    poses_BT44 = clips.world_from_camera_BT44.double()
    rotation_BT33 = poses_BT44[..., :3, :3]
    eye_33 = torch.eye(3, dtype=torch.float64).expand_as(rotation_BT33)
    torch.testing.assert_close(rotation_BT33 @ rotation_BT33.mT, eye_33, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation_BT33), torch.ones(3, 4).double(), atol=1e-6, rtol=0)
    assert torch.equal(poses_BT44[:, 0], torch.eye(4).double().expand(3, 4, 4))


def _project_into(clips, b, source, target):
    """Depth and ids of frame source seen from frame target: pixel (N, 2), depth (N), id (N), in float64."""
    height, width = clips.depth_m_BTHW.shape[-2:]
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    pixels_N3 = np.stack([columns, rows, np.ones_like(rows)], -1).reshape(-1, 3)
    lens_33 = clips.intrinsics_B33[b].double().numpy()
    depth_N1 = clips.depth_m_BTHW[b, source].double().numpy().reshape(-1, 1)
    points_N3 = depth_N1 * (pixels_N3 @ np.linalg.inv(lens_33).T)
    poses_T44 = clips.world_from_camera_BT44[b].double().numpy()
    target_from_source_44 = np.linalg.inv(poses_T44[target]) @ poses_T44[source]
    points_N3 = points_N3 @ target_from_source_44[:3, :3].T + target_from_source_44[:3, 3]
    image_N3 = points_N3 @ lens_33.T
    return image_N3[:, :2] / image_N3[:, 2:], points_N3[:, 2], clips.instance_BTHW[b, source].numpy().reshape(-1)


def _agreement(clips, b, source, target):
    """Share of pixels whose depth, and whose id, is found again; and of points that float before a surface."""
    pixel_N2, depth_N, id_N = _project_into(clips, b, source, target)
    height, width = clips.depth_m_BTHW.shape[-2:]
    column_N, row_N = np.floor(pixel_N2).astype(int).T
    seen_N = (depth_N > 0.05) & (column_N >= 1) & (column_N < width - 1) & (row_N >= 1) & (row_N < height - 1)
    if not seen_N.any():
        return None
    row_N, column_N, depth_N, id_N = row_N[seen_N], column_N[seen_N], depth_N[seen_N], id_N[seen_N]
    around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    depth_HW, id_HW = clips.depth_m_BTHW[b, target].numpy(), clips.instance_BTHW[b, target].numpy()
    near_9N = np.stack([depth_HW[row_N + i, column_N + j] for i, j in around])
    same_N = np.stack([id_HW[row_N + i, column_N + j] == id_N for i, j in around]).any(0)
    fits_N = (near_9N.min(0) - 0.02 <= depth_N) & (depth_N <= near_9N.max(0) + 0.02)
    hidden_N = depth_N > near_9N.max(0) + 0.02
    floating_N = depth_N < near_9N.min(0) - 0.02
    return fits_N.mean(), (same_N | hidden_N).mean(), floating_N.mean()


def test_depth_and_ids_agree_between_frames_of_static_clips():
    clips = render_clips(range(20, 28), STATIC)
    found = [_agreement(clips, b, s, t) for b in range(8) for s, t in ((0, 3), (3, 0), (1, 2))]
    fits, same, floating = np.array([f for f in found if f is not None]).T
    print(f"fits {fits.mean():.4f} (least {fits.min():.4f}), ids {same.min():.4f}, floating {floating.max():.4f}")
    assert fits.mean() > 0.98 and fits.min() > 0.9
    assert same.min() > 0.97
    assert floating.max() < 0.01


def test_wrong_pose_would_be_noticed():
    clips = render_clips(range(20, 28), STATIC)
    still_BT44 = torch.eye(4).expand_as(clips.world_from_camera_BT44)
    wrong = dataclasses.replace(clips, world_from_camera_BT44=still_BT44)
    fits = [_agreement(wrong, b, 0, 3)[0] for b in range(8)]
    assert np.mean(fits) < 0.97


def test_camera_keeps_its_distance():
    for seed in range(40):
        scene = sample_scene(seed, SMALL)
        eye_T3, room_m = scene.room_from_camera_T44[:, :3, 3], 2 * scene.slots_TK8[0, 0, 3:6]
        assert np.minimum(eye_T3, room_m - eye_T3).min() > 0.25, seed
        delta_TK3 = eye_T3[:, None] - scene.slots_TK8[:, 1:, :3]
        cos_TK, sin_TK = scene.slots_TK8[:, 1:, 6], scene.slots_TK8[:, 1:, 7]
        across_TK = cos_TK * delta_TK3[..., 0] + sin_TK * delta_TK3[..., 1]
        along_TK = cos_TK * delta_TK3[..., 1] - sin_TK * delta_TK3[..., 0]
        local_TK3 = np.stack([across_TK, along_TK, delta_TK3[..., 2]], -1)
        gap_TK = np.linalg.norm(np.maximum(np.abs(local_TK3) - scene.slots_TK8[:, 1:, 3:6], 0), axis=-1)
        assert gap_TK.min() > 0.25, seed


def test_camera_speed_is_plausible():
    steps_m, turns_deg = [], []
    for seed in range(40):
        poses_T44 = sample_scene(seed, SMALL).room_from_camera_T44
        steps_m.append(np.linalg.norm(np.diff(poses_T44[:, :3, 3], axis=0), axis=1).max())
        turn_33 = poses_T44[0, :3, :3].T @ poses_T44[1, :3, :3]
        turns_deg.append(np.degrees(np.arccos(np.clip((np.trace(turn_33) - 1) / 2, -1, 1))))
    print(f"metres a frame: median {np.median(steps_m):.3f}, most {max(steps_m):.3f}")
    print(f"degrees a frame: median {np.median(turns_deg):.2f}, most {max(turns_deg):.2f}")
    assert max(steps_m) < 0.25 and np.median(steps_m) > 0.02
    assert max(turns_deg) < 9 and np.median(turns_deg) > 0.5


def test_about_half_of_the_clips_have_movers():
    moving = [np.ptp(sample_scene(seed, SMALL).slots_TK8, axis=0).max() > 0 for seed in range(60)]
    assert 15 < sum(moving) < 45
    assert not any(np.ptp(sample_scene(seed, STATIC).slots_TK8, axis=0).max() > 0 for seed in range(10))


@pytest.mark.parametrize(
    "field, value",
    [("height_px", 0), ("frames", 0), ("supersample", 9), ("fov_x_deg", (90.0, 45.0)), ("fov_x_deg", (45.0, 170.0)),
     ("objects", (3, 99)), ("rate_hz", 0.0), ("moving_share", 1.5), ("width_px", 12.5)],
)  # fmt: skip
def test_config_names_value_and_range(field, value):
    with pytest.raises(ValueError, match=field) as error:
        WorldConfig(**{field: value})
    assert str(value) in str(error.value) and "[" in str(error.value)


def test_no_seeds_is_an_error():
    with pytest.raises(ValueError, match="seeds is empty"):
        render_clips([], SMALL)
