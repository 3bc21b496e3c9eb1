"""The procedural world: seeds, geometry and configuration.

Shapes: B clips, T frames, H rows, W columns, N pixels.
"""

import dataclasses

import numpy as np
import pytest
import torch

from omnistream_core.pretraining.world import CLASS_ID, CLASSES, WorldConfig, render_clips, sample_scene
from omnistream_core.pretraining.world.config import PLACES
from omnistream_core.pretraining.world.scene import FIRST_ROUND

SMALL = WorldConfig(height_px=24, width_px=32, frames=4)
STATIC = dataclasses.replace(
    SMALL, height_px=48, width_px=64, moving_share=0.0, supersample=1, places=("room", "corridor", "hall", "tabletop")
)


@pytest.fixture(scope="module")
def clips():
    return render_clips([3, 5, 8], SMALL)


def test_same_seed_same_clip_whatever_the_batch(clips):
    alone = render_clips([5], SMALL)
    for part in dataclasses.fields(clips):
        if getattr(alone, part.name) is not None:
            assert torch.equal(getattr(clips, part.name)[1:2], getattr(alone, part.name)), part.name


def test_seeds_differ(clips):
    first, second = clips.images_BT3HW[:2].float()
    assert (first - second).abs().mean() > 5


def test_shapes_types_and_finite_depth(clips):
    assert clips.images_BT3HW.shape == (3, 4, 3, 24, 32) and clips.images_BT3HW.dtype == torch.uint8
    assert clips.depth_m_BTHW.shape == clips.instance_BTHW.shape == (3, 4, 24, 32)
    assert clips.instance_BTHW.dtype == torch.int16 and clips.instance_BTHW.min() >= 0
    assert torch.isfinite(clips.depth_m_BTHW).all() and (clips.depth_m_BTHW >= 0).all()


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
    held = [any(o.kind == "gripper" for o in sample_scene(seed, STATIC).objects) for seed in range(20, 28)]
    still = [b for b in range(8) if not held[b]]  # a gripper moves with the camera
    found = [_agreement(clips, b, s, t) for b in still for s, t in ((0, 3), (3, 0), (1, 2))]
    fits, same, floating = np.array([f for f in found if f is not None]).T
    print(f"fits {fits.mean():.4f} (least {fits.min():.4f}), ids {same.min():.4f}, floating {floating.max():.4f}")
    assert fits.mean() > 0.98 and fits.min() > 0.9
    assert same.min() > 0.97
    assert floating.max() < 0.03 and floating.mean() < 0.005  # leaves and legs are thinner than a pixel


def test_wrong_pose_would_be_noticed():
    clips = render_clips(range(20, 28), STATIC)
    still_BT44 = torch.eye(4).expand_as(clips.world_from_camera_BT44)
    wrong = dataclasses.replace(clips, world_from_camera_BT44=still_BT44)
    fits = [_agreement(wrong, b, 0, 3)[0] for b in range(8)]
    assert np.mean(fits) < 0.97


def test_camera_keeps_its_distance():
    for seed in range(40):
        scene = sample_scene(seed, SMALL)
        eye_T3, least_m = scene.room_from_camera_T44[:, :3, 3], 0.11 if scene.place == "tabletop" else 0.26
        assert (scene.half_K3[0] - np.abs(eye_T3 - scene.centre_TK3[:, 0])).min() > least_m, seed
        for obj in scene.objects:
            if obj.kind == "gripper":
                continue
            slots_S = np.flatnonzero(scene.instance_K == obj.instance)
            delta_TS3 = eye_T3[:, None] - scene.centre_TK3[:, slots_S]
            local_TS3 = np.einsum("tsj,tsji->tsi", delta_TS3, scene.axes_TK33[:, slots_S])
            gap_TS = np.linalg.norm(np.maximum(np.abs(local_TS3) - scene.half_K3[slots_S], 0), axis=-1)
            assert gap_TS[scene.present_TK[:, slots_S]].min(initial=9) > least_m, (seed, obj.kind)


def test_camera_speed_is_plausible():
    steps_m, turns_deg = [], []
    for seed in range(60):
        poses_T44 = sample_scene(seed, SMALL).room_from_camera_T44
        steps_m.append(np.linalg.norm(np.diff(poses_T44[:, :3, 3], axis=0), axis=1).max())
        turn_33 = poses_T44[0, :3, :3].T @ poses_T44[1, :3, :3]
        turns_deg.append(np.degrees(np.arccos(np.clip((np.trace(turn_33) - 1) / 2, -1, 1))))
    print(f"metres a frame: median {np.median(steps_m):.3f}, most {max(steps_m):.3f}")
    print(f"degrees a frame: median {np.median(turns_deg):.2f}, most {max(turns_deg):.2f}")
    assert max(steps_m) < 0.7 and np.median(steps_m) > 0.02
    assert max(turns_deg) < 18 and np.median(turns_deg) > 0.5


def test_about_half_of_the_clips_have_movers():
    moving = [any(o.motion for o in sample_scene(seed, SMALL).objects if o.kind != "gripper") for seed in range(60)]
    assert 15 < sum(moving) < 45
    still = [sample_scene(seed, STATIC) for seed in range(20)]
    assert not any(np.ptp(s.centre_TK3, axis=0).max() > 0 for s in still if s.camera_motion != "wrist")


def test_every_place_and_class_id_occurs():
    scenes = [sample_scene(seed, SMALL) for seed in range(80)]
    assert {s.place for s in scenes} == set(PLACES)
    used = {o.label for s in scenes for o in s.objects}
    assert used <= set(CLASSES) and len(used) > 20


@pytest.fixture(scope="module")
def labelled():
    return render_clips(
        range(40, 46), dataclasses.replace(STATIC, labels=("class", "normals", "flow"), moving_share=1.0)
    )


def test_labels_cost_nothing_unless_asked_for(clips, labelled):
    assert clips.class_BTHW is None and clips.normals_BT3HW is None and clips.flow_BT2HW is None
    assert labelled.class_BTHW.dtype == torch.int16 and labelled.class_BTHW.max() < len(CLASSES)
    assert labelled.flow_valid_BTHW.dtype == torch.bool


def test_only_the_sky_has_no_depth():
    config = dataclasses.replace(STATIC, labels=("class",), places=("open",))
    batch = render_clips(range(3), config)
    assert torch.equal(batch.depth_m_BTHW == 0, batch.class_BTHW == CLASS_ID["sky"])
    assert (batch.depth_m_BTHW == 0).any() and (batch.depth_m_BTHW > 0).any()


def test_normals_are_those_of_the_depth(labelled):
    """The plane through the neighbours' points, from depth alone, where the surface is flat."""
    normals_N3HW = labelled.normals_BT3HW.flatten(0, 1)
    torch.testing.assert_close(normals_N3HW.norm(dim=1), torch.ones_like(normals_N3HW[:, 0]), atol=1e-3, rtol=0)
    height, width = normals_N3HW.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixel_HW3 = torch.stack([columns, rows, torch.ones_like(rows)], -1)
    inverse_B33 = torch.linalg.inv(labelled.intrinsics_B33)
    rays_BHW3 = torch.einsum("bij,hwj->bhwi", inverse_B33, pixel_HW3)
    points = (rays_BHW3[:, None] * labelled.depth_m_BTHW[..., None]).flatten(0, 1)
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    found = torch.nn.functional.normalize(torch.cross(down, across, dim=-1), dim=-1)
    cosine = (found * normals_N3HW[:, :, 1:-1, 1:-1].movedim(1, -1)).sum(-1)
    shares = (cosine > 0.99).float().mean(), (cosine < 0).float().mean()
    print(f"agree {shares[0]:.3f}, wrong side {shares[1]:.3f}")
    assert shares[0] > 0.7 and shares[1] < 0.05


def test_flow_leads_to_the_same_object_at_the_same_place(labelled):
    """Where flow is valid, the pixel that it leads to shows the same object; still points have the same room point."""
    flow, valid = labelled.flow_BT2HW[:, :-1], labelled.flow_valid_BTHW[:, :-1]
    _, _, height, width = valid.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = (columns + 0.5 + flow[:, :, 0]).floor().long().clamp(0, width - 1)
    y = (rows + 0.5 + flow[:, :, 1]).floor().long().clamp(0, height - 1)
    there = labelled.instance_BTHW[:, 1:].flatten(2).gather(2, (y * width + x).flatten(2)).reshape(valid.shape)
    same = (there == labelled.instance_BTHW[:, :-1])[valid].float().mean()
    print(
        f"valid {valid.float().mean():.3f}, same object {same:.4f}, mean flow {flow.norm(dim=2)[valid].mean():.2f} px"
    )
    assert valid.float().mean() > 0.6 and same > 0.97
    assert not labelled.flow_valid_BTHW[:, -1].any()
    for b in range(len(flow)):
        pixel_N2, _, id_N = _project_into(labelled, b, 0, 1)
        start_N2 = np.stack([columns.flatten(), rows.flatten()], -1) + 0.5
        still_N = (id_N == 0) & valid[b, 0].flatten().numpy() & (labelled.depth_m_BTHW[b, 0].flatten().numpy() > 0)
        found_N2 = flow[b, 0].flatten(1).T.numpy()
        np.testing.assert_allclose(found_N2[still_N], (pixel_N2 - start_N2)[still_N], atol=0.05)


def test_mirror_image_keeps_normals_and_flow_consistent(labelled):
    """Flow still leads where the depth and poses say."""
    mirror = labelled.mirrored()
    for name in (f.name for f in dataclasses.fields(labelled)):
        assert torch.equal(getattr(mirror.mirrored(), name), getattr(labelled, name)), name
    pixel_N2, _, id_N = _project_into(mirror, 0, 0, 1)
    columns, rows = np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5)
    still_N = (id_N == 0) & mirror.flow_valid_BTHW[0, 0].flatten().numpy()
    found_N2 = mirror.flow_BT2HW[0, 0].flatten(1).T.numpy() + np.stack([columns.ravel(), rows.ravel()], -1)
    np.testing.assert_allclose(found_N2[still_N], pixel_N2[still_N], atol=0.05)
    joined = type(labelled).joined([labelled, mirror]).mapped(lambda x: x[6:])
    assert torch.equal(joined.normals_BT3HW, mirror.normals_BT3HW)


def test_things_hide_what_is_behind_them_in_every_tile():
    """Tiles leave out only primitives that they cannot see: rays against all of them find the same."""
    scene = sample_scene(6, STATIC)
    batch = render_clips([6], STATIC)
    lens = batch.intrinsics_B33[0].double().numpy()
    for row, column in np.random.default_rng(0).integers(0, (48, 64), size=(30, 2)):
        ray_3 = scene.room_from_camera_T44[0, :3, :3] @ (np.linalg.inv(lens) @ [column + 0.5, row + 0.5, 1.0])
        depth_m = _first_hit(scene, scene.room_from_camera_T44[0, :3, 3], ray_3)
        np.testing.assert_allclose(batch.depth_m_BTHW[0, 0, row, column], depth_m, rtol=1e-3, atol=2e-3)


def _first_hit(scene, eye_3, ray_3):
    """Marching along the ray in small steps through the implicit bodies: slow, and nothing like the renderer."""
    steps_N = np.linspace(0.02, 16.0, 16_000)
    points_N3 = eye_3 + steps_N[:, None] * ray_3
    hit_N = (np.abs(points_N3 - scene.centre_TK3[0, 0]) > scene.half_K3[0]).any(1)
    for slot in np.flatnonzero(scene.present_TK[0]):
        x, y, z = ((points_N3 - scene.centre_TK3[0, slot]) @ scene.axes_TK33[0, slot] / scene.half_K3[slot]).T
        if slot < FIRST_ROUND:
            hit_N |= (np.abs(x) < 1) & (np.abs(y) < 1) & (np.abs(z) < 1)
        else:
            c2, c1, c0 = scene.shape_K3[slot]
            hit_N |= (x * x + y * y + c2 * z * z + c1 * z + c0 < 0) & (np.abs(z) < 1)
    return steps_N[np.argmax(hit_N)]


@pytest.mark.parametrize(
    "field, value",
    [("height_px", 0), ("frames", 0), ("supersample", 99), ("fov_x_deg", (90.0, 45.0)), ("fov_x_deg", (45.0, 170.0)),
     ("objects", (3, 99)), ("labels", ("smell",)), ("places", ("moon",)),
     ("rate_hz", 0.0), ("moving_share", 1.5), ("width_px", 12.5)],
)  # fmt: skip
def test_config_names_value_and_range(field, value):
    with pytest.raises(ValueError, match=field) as error:
        WorldConfig(**{field: value})
    assert str(value) in str(error.value) and "[" in str(error.value)


def test_no_seeds_is_an_error():
    with pytest.raises(ValueError, match="seeds is empty"):
        render_clips([], SMALL)
