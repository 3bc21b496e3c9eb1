"""Probes with planted features: what is in them is found, what is not in them is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from omnistream_core.errors import ConfigError
from omnistream_core.evaluation import motion, propagation
from omnistream_core.evaluation.held_out import CLIPS_A_SIDE, render, split_seeds
from omnistream_core.evaluation.linear import fit_ridge, fit_softmax
from omnistream_core.evaluation.neighbours import top1
from omnistream_core.evaluation.propagation import PropagationConfig, propagate
from omnistream_core.evaluation.world import WorldEvaluation
from omnistream_core.geometry import camera_directions
from omnistream_core.pretraining.world import HELD_OUT_SEED, WorldConfig


@given(st.integers(1, CLIPS_A_SIDE), st.integers(1, CLIPS_A_SIDE))
def test_no_world_is_both_fitted_and_judged_nor_ever_trained_on(judge, fit):
    split = split_seeds(judge=judge, fit=fit)
    assert len(split.judge) == judge and len(split.fit) == fit
    assert split.judge.stop <= split.fit.start and min(split.judge.start, split.fit.start) >= HELD_OUT_SEED


@pytest.mark.parametrize("sizes", [{"judge": 0, "fit": 1}, {"judge": 1, "fit": CLIPS_A_SIDE + 1}])
def test_a_split_that_would_overlap_is_refused(sizes):
    with pytest.raises(ConfigError, match="clips"):
        split_seeds(**sizes)


def test_a_quick_evaluation_is_a_quarter_of_the_whole_without_questions():
    quick, whole = WorldEvaluation(compared=False).quick(), WorldEvaluation(compared=False)
    assert (quick.judge_clips, quick.fit_clips, quick.jf_clips) == (16, 32, 6)
    assert set(whole.probes) - set(quick.probes) == {"questions"} and not quick.compared and quick.world == whole.world
    for clips in (2, 10, 64, 100):
        counted = whole.scaled(clips / whole.judge_clips)
        assert (counted.judge_clips, counted.fit_clips, counted.jf_clips) == (clips, 2 * clips, max(1, clips * 3 // 8))
    few = whole.scaled(0.001)
    assert (few.judge_clips, few.fit_clips, few.jf_clips) == (1, 4, 1)


def test_labels_of_rendered_clips_fit_each_other():
    world = WorldConfig(frames=4, height_px=48, width_px=64)
    clips = render([HELD_OUT_SEED, HELD_OUT_SEED + 1], world)
    assert clips.class_BTHW.shape == clips.instance_BTHW.shape == (2, 4, 48, 64)
    known_BTHW = clips.depth_m_BTHW > 0
    normals_X3 = clips.normals_BT3HW.movedim(2, -1)[known_BTHW]
    rays_X3 = camera_directions(clips.intrinsics_B33, 48, 64)[:, None].expand(2, 4, 48, 64, 3)[known_BTHW]
    assert normals_X3.norm(dim=-1).allclose(torch.ones(len(normals_X3)), atol=1e-4)
    assert ((normals_X3 * rays_X3).sum(-1) <= 1e-3).float().mean() > 0.99  # towards the camera
    alone = render([HELD_OUT_SEED + 1], world)
    assert torch.equal(clips.images_BT3HW[1:], alone.images_BT3HW)


# ---- linear ----


def test_ridge_recovers_a_planted_map_and_refuses_noise():
    torch.manual_seed(0)
    x, weight = torch.randn(400, 12) * 3 + 5, torch.randn(12, 4)
    unseen = torch.randn(50, 12)
    assert torch.allclose(fit_ridge(x, x @ weight + 2)(unseen), unseen @ weight + 2, atol=2e-3)
    noise = torch.randn(400, 4)
    assert fit_ridge(x, noise)(x).std() < 0.1  # a penalty large enough to say nothing was chosen


def test_ridge_is_that_of_scikit_learn():
    torch.manual_seed(1)
    x, y = torch.randn(60, 5), torch.randn(60, 3)
    scaled = (x - x.mean(0)) / x.std(0, correction=0)
    reference = Ridge(alpha=0.1 * len(x)).fit(scaled.numpy(), y.numpy()).predict(scaled.numpy())
    ours = fit_ridge(x, y, penalties=[0.1])(x.float())
    np.testing.assert_allclose(ours.numpy(), reference, atol=1e-5)


def test_softmax_regression_is_that_of_scikit_learn():
    torch.manual_seed(2)
    x = torch.randn(300, 4)
    label = (x @ torch.randn(4, 3) + torch.randn(300, 3)).argmax(1)
    scaled = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    penalty = 1e-2
    reference = LogisticRegression(C=1 / (2 * penalty * len(x)), tol=1e-8, max_iter=1000).fit(scaled, label.numpy())
    ours = fit_softmax(x, torch.nn.functional.one_hot(label, 3).float(), [penalty], steps=500)(x).softmax(-1)
    np.testing.assert_allclose(ours.numpy(), reference.predict_proba(scaled), atol=2e-3)


def test_softmax_regression_does_not_learn_noise_by_heart():
    torch.manual_seed(3)
    label = torch.randint(0, 3, (120,))
    probe = fit_softmax(torch.randn(120, 100), torch.nn.functional.one_hot(label, 3).float())
    assert probe(torch.randn(50, 100)).softmax(-1).max() < 0.6


# ---- neighbours ----


def test_neighbours_are_of_other_clips_only():
    feature = torch.eye(4).repeat_interleave(2, 0)  # two samples alike, but of one clip each pair
    clip, label = torch.arange(4).repeat_interleave(2), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert top1(feature, label, clip, k=1) == 0
    assert top1(feature, label, torch.arange(8), k=1) == 1


def test_neighbours_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    feature, label = rng.normal(size=(80, 6)), rng.integers(0, 3, 80)
    feature[:, 0] += 2 * label
    unit = feature / np.linalg.norm(feature, axis=1, keepdims=True)
    hits = []
    for i in range(80):  # one clip a sample: leaving the clip out is leaving the sample out
        rest = np.arange(80) != i
        model = KNeighborsClassifier(10, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
        hits.append(model.fit(unit[rest], label[rest]).predict(unit[i : i + 1])[0] == label[i])
    ours = top1(torch.tensor(feature).float(), torch.tensor(label), torch.arange(80), k=10)
    assert ours == pytest.approx(np.mean(hits))


# ---- motion order ----


def _shown_both_ways(clips: int, seed: int) -> torch.Tensor:
    """(B, O, T, D) frames that brighten as the camera advances: the same frames either way."""
    noise_BTD = torch.randn(clips, 8, 6, generator=torch.Generator().manual_seed(seed))
    frames_BTD = noise_BTD * 0.1 + torch.arange(8.0)[None, :, None]
    return torch.stack((frames_BTD, frames_BTD.flip(1)), dim=1)


def test_a_bag_of_frames_is_right_exactly_half_of_the_time():
    assert motion.order_accuracy(_shown_both_ways(30, 0), _shown_both_ways(40, 1)) == 0.5


def test_features_that_remember_the_frame_before_tell_the_order():
    fit, judge = (frames.diff(dim=2) for frames in (_shown_both_ways(30, 0), _shown_both_ways(40, 1)))
    assert motion.order_accuracy(fit, judge) == 1.0


def test_the_half_that_travels_furthest_is_shown():
    assert motion.moving(torch.tensor([0.1, -0.5, 0.0, 0.3])).tolist() == [1, 3]
    assert motion.moving(torch.tensor([0.0])).tolist() == [0]


def test_both_orders_turn_a_clip_whose_camera_retreats():
    recorded, reverse = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    shown = motion.both_orders(torch.tensor([0.3, -0.3]), recorded, reverse)
    assert shown.shape == (2, 2, 12, 5)
    assert shown[0, 0].max() == 0 and shown[0, 1].min() == 1  # advances as recorded
    assert shown[1, 0].min() == 1 and shown[1, 1].max() == 0  # advances backwards


# ---- label propagation ----

GRID_HW = (6, 8)


def _moving_square(frames: int) -> torch.Tensor:
    """(T, N) ids: a 2 x 2 square of ids 1..4 that moves a patch to the right each frame, on ids of their own."""
    ids = torch.arange(100, 100 + 48).reshape(GRID_HW).repeat(frames, 1, 1)
    for t in range(frames):
        ids[t, 2:4, t : t + 2] = torch.tensor([[1, 2], [3, 4]])
    return ids.flatten(1)


def test_masks_follow_planted_features():
    ids_TN = _moving_square(5)
    features_TND = torch.nn.functional.one_hot(ids_TN, 148).float()
    true_TKN = torch.stack((ids_TN >= 100, ids_TN < 100), dim=1).float()
    config = PropagationConfig(neighbours=1)
    found_TKN = propagate(features_TND, GRID_HW, true_TKN[0], config)
    square_TN = found_TKN[:, 1] > found_TKN[:, 0]
    assert torch.equal(square_TN & (true_TKN[:, 1] > 0), true_TKN[:, 1] > 0)  # all of the square is found
    assert found_TKN.sum(1).allclose(torch.ones(5, 48))  # shares of masks stay shares


def test_masks_do_not_jump_beyond_the_neighbourhood():
    features_TND = torch.ones(2, 48, 3)
    features_TND[0, 0] = features_TND[1, 47] = torch.tensor([1.0, -1.0, 0.0])  # twins in opposite corners
    first_KN = torch.zeros(2, 48)
    first_KN[0], first_KN[1, 0], first_KN[0, 0] = 1, 1, 0
    near = propagate(features_TND, GRID_HW, first_KN, PropagationConfig(neighbours=1, radius=0.25))
    far = propagate(features_TND, GRID_HW, first_KN, PropagationConfig(neighbours=1, radius=2.0))
    assert near[1, 1, 47] == 0 and far[1, 1, 47] == 1


def test_true_masks_score_one_and_still_ones_less():
    instance_THW = torch.zeros(3, 48, 64, dtype=torch.int16)
    for t in range(3):
        instance_THW[t, 16:32, 8 + 4 * t : 24 + 4 * t] = 5
    masks_TKHW = propagation.mask_stack(instance_THW)
    fine_TKN = propagation.to_grid(masks_TKHW, (48, 64))
    np.testing.assert_allclose(propagation.score(fine_TKN, (48, 64), masks_TKHW), [[1, 1]])
    (j, f) = propagation.still(instance_THW)[0]
    assert j == pytest.approx((12 / 20 + 8 / 24) / 2) and 0 < f < 1
