"""Linear probes of patch features on worlds that are made up: planted labels are found, absent ones are not."""

from __future__ import annotations

import pytest
import torch

from omnistream_core.evaluation import dense
from omnistream_core.evaluation.dense import Side
from omnistream_core.evaluation.features import LABELLED, ClipFeatures
from omnistream_core.evaluation.held_out import LabelledClips

GRID_HW, PATCH_PX, FRAMES = (3, 4), 8, 8


def _side(clips: int, seed: int, *, planted: bool) -> Side:
    """Clips whose patches have one depth, normal and class each, and features that hold these (or nothing of them)."""
    generator = torch.Generator().manual_seed(seed)
    label_BTNK = torch.randn(clips, FRAMES, 12, 4, generator=generator)  # log-depth, normal
    class_BTN = torch.randint(0, 3, (clips, FRAMES, 12), generator=generator)
    content = torch.cat((label_BTNK, torch.nn.functional.one_hot(class_BTN, 3)), dim=-1)
    mixed_BTND = content @ torch.randn(7, 16, generator=torch.Generator().manual_seed(9))
    features_BTND = mixed_BTND if planted else torch.randn(mixed_BTND.shape, generator=generator)
    motion_BT7 = torch.randn(clips, FRAMES, 7, generator=generator).cumsum(1) * 0.1 + torch.eye(7)[3]
    poses = dense.pose_matrix(motion_BT7[..., 3:], motion_BT7[..., :3])
    labels = LabelledClips(
        images_BT3HW=torch.zeros(clips, FRAMES, 3, 24, 32, dtype=torch.uint8),
        depth_m_BTHW=_pixels(label_BTNK[..., :1])[:, :, 0].exp(),
        world_from_camera_BT44=poses,
        intrinsics_B33=torch.eye(3).expand(clips, 3, 3),
        instance_BTHW=torch.zeros(clips, FRAMES, 24, 32, dtype=torch.int16),
        class_BTHW=_pixels(class_BTN[..., None])[:, :, 0].to(torch.int16),
        normals_BT3HW=torch.nn.functional.normalize(_pixels(label_BTNK[..., 1:]), dim=2),
    )
    frame_BTSD = (motion_BT7 if planted else torch.randn(clips, FRAMES, 7, generator=generator))[:, :, None]
    features = ClipFeatures(
        patches_BFND=features_BTND[:, LABELLED],
        frame_BTSD=frame_BTSD,
        coarse_BTGD=torch.zeros(clips, FRAMES, 1, 7),
        grid_hw=GRID_HW,
    )
    return Side(clips=labels, features=features)


def _pixels(patches_BTNK: torch.Tensor) -> torch.Tensor:
    maps = patches_BTNK.mT.unflatten(3, GRID_HW)
    return maps.repeat_interleave(PATCH_PX, 3).repeat_interleave(PATCH_PX, 4)


def _figures(*, planted: bool) -> dict[str, float]:
    fit, judge = _side(24, 0, planted=planted), _side(8, 1, planted=planted)
    probes = (dense.depth, dense.normals, dense.segmentation, dense.pose)
    return {key: value for probe in probes for key, value in probe(fit, judge).items()}


def test_planted_labels_are_found_and_absent_ones_are_not():
    planted, absent = _figures(planted=True), _figures(planted=False)
    # Bilinear interpolation between patches of unrelated labels is what keeps the planted ones from being exact.
    assert planted["probe_abs_rel"] < 0.6 * absent["probe_abs_rel"]
    assert planted["normals_deg"] < 45 and absent["normals_deg"] > 80
    assert planted["segmentation_miou"] > 0.75 and absent["segmentation_miou"] < 0.3
    assert planted["probe_ate_ratio"] < 0.05 and 0.5 < absent["probe_ate_ratio"] <= 1


def test_a_probe_without_features_knows_what_each_place_is_like():
    fit, judge = _side(24, 0, planted=False), _side(8, 1, planted=False)
    depth_HW = torch.linspace(1, 8, 12).reshape(GRID_HW).repeat_interleave(8, 0).repeat_interleave(8, 1)
    for side in (fit, judge):
        side.clips.depth_m_BTHW[:] = depth_HW
    place = dense.depth(dense.place_only(fit), dense.place_only(judge))["probe_abs_rel"]
    smooth = torch.nn.functional.interpolate(
        depth_HW[4::8, 4::8].log()[None, None], (24, 32), mode="bilinear", align_corners=False
    ).exp()
    assert place == pytest.approx(
        dense.depth_errors(smooth.flatten().numpy(), depth_HW.flatten().numpy())["abs_rel"], abs=1e-3
    )


def test_sky_is_neither_fitted_nor_judged():
    fit, judge = _side(24, 0, planted=True), _side(8, 1, planted=True)
    before = dense.depth(fit, judge)["probe_abs_rel"]
    for side in (fit, judge):
        side.clips.depth_m_BTHW[:, :, : PATCH_PX - 3] = 0
        side.clips.normals_BT3HW[:, :, :, : PATCH_PX - 3] = float("nan")
    assert dense.depth(fit, judge)["probe_abs_rel"] == pytest.approx(before, rel=0.3)
    assert 0 < dense.normals(fit, judge)["normals_deg"] < 45
