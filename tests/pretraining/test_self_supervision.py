"""Self-supervision: each term against an independent computation, and what the views may and may not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from omnistream_core.pretraining.data import generator_for
from omnistream_core.pretraining.objectives import dino_loss, gram_loss, ibot_loss, koleo_loss, sinkhorn_knopp
from omnistream_core.pretraining.teacher import follow, frozen_copy, momentum_at
from omnistream_core.pretraining.views import ViewConfig, draw_views, joined, make_views


def test_sinkhorn_uses_every_prototype_alike():
    torch.manual_seed(0)
    logits = torch.rand(64, 8) * 2 - 1
    q_XK = sinkhorn_knopp(logits, 0.1, iterations=60)
    assert torch.allclose(q_XK.sum(1), torch.ones(64), atol=1e-5)
    assert torch.allclose(q_XK.sum(0), torch.full((8,), 64 / 8), rtol=1e-3)


def test_sinkhorn_equals_its_definition_and_survives_large_logits():
    rng = np.random.default_rng(1)
    logits_XK = rng.uniform(-1, 1, (10, 4))
    q = np.exp(logits_XK / 0.07).T
    q /= q.sum()
    for _ in range(3):  # prototypes by rows, then images by columns, as Caron et al. write it
        q /= q.sum(1, keepdims=True) * 4
        q /= q.sum(0, keepdims=True) * 10
    ours = sinkhorn_knopp(torch.tensor(logits_XK), 0.07)
    assert np.allclose(ours.numpy(), (q * 10).T, atol=1e-5)
    shifted = sinkhorn_knopp(torch.tensor(logits_XK + 1000), 0.07)
    assert torch.allclose(shifted, ours, atol=1e-2) and shifted.isfinite().all()


def test_dino_compares_every_pair_of_different_views():
    torch.manual_seed(2)
    student_VXK, teacher_GXK = torch.randn(4, 5, 7), torch.rand(2, 5, 7).softmax(-1)
    total, pairs = 0.0, 0
    for g in range(2):
        for v in range(4):
            if g == v:
                continue
            for x in range(5):
                p = torch.softmax(student_VXK[v, x] / 0.1, 0)
                total += float(-(teacher_GXK[g, x] * p.log()).sum())
            pairs += 1
    assert float(dino_loss(student_VXK, teacher_GXK)) == pytest.approx(total / pairs / 5, rel=1e-5)


def test_ibot_is_a_mean_over_the_patches_of_an_image_then_over_images():
    torch.manual_seed(3)
    student_MK, teacher_MK = torch.randn(4, 6), torch.rand(4, 6).softmax(-1)
    cross = [float(-(teacher_MK[m] * torch.log_softmax(student_MK[m] / 0.1, 0)).sum()) for m in range(4)]
    expected = ((cross[0] + cross[1] + cross[2]) / 3 + cross[3]) / 5
    ours = ibot_loss(student_MK, teacher_MK, torch.tensor([0, 0, 0, 4]), 5)
    assert float(ours) == pytest.approx(expected, rel=1e-5)
    nothing_masked = ibot_loss(student_MK[:0], teacher_MK[:0], torch.zeros(0, dtype=torch.long), 5)
    assert float(nothing_masked) == 0


def test_koleo_spreads_clips_but_not_the_frames_of_one():
    angles = torch.tensor([0.0, 0.3, 2.0])
    points_BD = torch.stack((angles.cos(), angles.sin()), -1)
    chord = lambda a: 2 * math.sin(a / 2)  # noqa: E731
    expected = -(2 * math.log(chord(0.3)) + math.log(chord(1.7))) / 3
    still_TBD = points_BD.expand(4, 3, 2)  # frames of a clip are all alike: no reason to push
    assert float(koleo_loss(5 * still_TBD)) == pytest.approx(expected, rel=1e-4)
    assert float(koleo_loss(torch.randn(4, 1, 2))) == 0


def test_gram_holds_similarities_not_features():
    torch.manual_seed(4)
    anchor_XND = torch.randn(2, 6, 8)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8))
    assert float(gram_loss(3 * anchor_XND @ rotation, anchor_XND)) == pytest.approx(0, abs=1e-10)
    assert float(gram_loss(torch.randn(2, 6, 8), anchor_XND)) > 0.05


def test_the_teacher_follows_by_its_momentum():
    student = torch.nn.Linear(3, 2)
    teacher = frozen_copy(student)
    before = teacher.weight.clone()
    with torch.no_grad():
        student.weight += 1
    follow(teacher, student, 0.9)
    assert torch.allclose(teacher.weight, before + 0.1) and not teacher.weight.requires_grad
    assert momentum_at(0, 0.99) == pytest.approx(0.99) and momentum_at(1, 0.99) == pytest.approx(1)


VIEWS = ViewConfig(global_hw=(32, 48), local_hw=(16, 32), locals=3)


def views_of(images, seed=0, config=VIEWS):
    return make_views(images, draw_views(len(images), 16, config, generator_for(seed, "views")), config)


def test_views_are_the_same_for_every_frame_of_a_clip():
    torch.manual_seed(5)
    still_BT3HW = torch.randint(0, 256, (4, 1, 3, 48, 64), dtype=torch.uint8).expand(-1, 5, -1, -1, -1)
    views = views_of(still_BT3HW)
    assert views.global_VBT3hw.shape == (2, 4, 5, 3, 32, 48) and views.local_VBT3hw.shape == (3, 4, 5, 3, 16, 32)
    for view in (views.global_VBT3hw, views.local_VBT3hw):
        assert torch.equal(view, view[:, :, :1].expand_as(view))
        assert view.min() >= 0 and view.max() <= 255
    assert torch.equal(views.mask_VBTN, views.mask_VBTN[:, :, :1].expand_as(views.mask_VBTN))
    assert not torch.equal(views.global_VBT3hw[0], views.global_VBT3hw[1])


def test_a_crop_shows_what_is_there():
    """A picture whose colour is its place tells where each view was cut."""
    x_W, y_H = (torch.arange(n) + 0.5 for n in (64, 48))
    place_3HW = torch.stack((x_W.expand(48, 64) * 3, y_H[:, None].expand(48, 64) * 4, torch.full((48, 64), 90.0)))
    config = ViewConfig(global_hw=(32, 48), local_hw=(16, 32), jitter=0.0, grey=0.0, blur=0.0)
    draw = draw_views(6, 16, config, generator_for(3, "views"))
    views = make_views(place_3HW.expand(6, 2, 3, 48, 64), draw, config)
    for view, box in zip(views.global_VBT3hw[0], draw.global_boxes_VB4[0], strict=True):
        centre_x = float(view[0, 0].mean() / 3 / 64 * 2 - 1)
        assert centre_x == pytest.approx(float(box[0]), abs=0.06)
        rising = bool(view[0, 0, 0, -1] > view[0, 0, 0, 0])
        assert rising == bool(box[2] > 0), "a negative half width mirrors"


def test_masks_hide_the_asked_share_of_half_of_the_clips():
    draw = draw_views(400, 16, ViewConfig(global_hw=(96, 128)), generator_for(0, "masks"))
    share_VB = draw.mask_VBN.float().mean(-1)
    masked = share_VB > 0
    assert 0.4 < float(masked.float().mean()) < 0.6
    assert share_VB[masked].min() >= 0.08 and share_VB.max() <= 0.52


def test_draws_are_functions_of_the_generator_and_join():
    one, same, other = (draw_views(3, 16, VIEWS, generator_for(0, "views", n)) for n in (1, 1, 2))
    assert all(torch.equal(getattr(one, name), getattr(same, name)) for name in vars(one))
    both = joined([one, other])
    assert both.global_boxes_VB4.shape == (2, 6, 4)
    assert torch.equal(both.mask_VBN[:, 3:], other.mask_VBN)
