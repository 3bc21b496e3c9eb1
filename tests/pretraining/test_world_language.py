"""Answers about rendered clips, found again from depth, ids and poses alone.

Shapes: B clips, T frames, H rows, W columns, N points.
"""

import re

import numpy as np
import pytest
import torch

from omnistream_core.pretraining.world import CLASS_ID, WorldConfig, render_scenes, sample_scene
from omnistream_core.pretraining.world.language import (
    HINT_SHARE,
    SEEN_SHARE,
    _Clip,
    colour_name,
    describe,
    visible_pixels,
)

CONFIG = WorldConfig(
    height_px=48, width_px=64, frames=6, rate_hz=4, supersample=1, shadows=False, labels=("class",), moving_share=0.6
)
COUNT = 80


class _Told:
    """A rendered clip with its description, and what the pictures alone say."""

    def __init__(self, scene, clips, b, visible_TI):
        self.scene, self.clips, self.b = scene, clips, b
        self.description = describe(scene, visible_TI, np.random.default_rng(b))
        seen = _Clip(scene, visible_TI / visible_TI[0].sum(), np.random.default_rng(0))
        self.id_of = {s.name: s.thing.instance for s in seen.named}

    def pixels(self, name, frame):
        """Points (N, 3) in the world of the clip, and columns (N,), of the pixels of an object."""
        mask_HW = self.clips.instance_BTHW[self.b, frame] == self.id_of[name]
        rows_N, columns_N = (x.double() for x in mask_HW.nonzero(as_tuple=True))
        depth_N = self.clips.depth_m_BTHW[self.b, frame][mask_HW].double()
        pixel_N3 = torch.stack([columns_N + 0.5, rows_N + 0.5, torch.ones_like(rows_N)], -1)
        camera_N3 = depth_N[:, None] * (pixel_N3 @ torch.linalg.inv(self.clips.intrinsics_B33[self.b].double()).T)
        pose_44 = self.clips.world_from_camera_BT44[self.b, frame].double()
        return (camera_N3 @ pose_44[:3, :3].T + pose_44[:3, 3]).numpy(), columns_N.numpy()

    def cloud(self, name):
        """Points of an object from all frames."""
        return np.concatenate([self.pixels(name, t)[0] for t in range(CONFIG.frames)])


@pytest.fixture(scope="module")
def told():
    scenes = [sample_scene(seed, CONFIG) for seed in range(COUNT)]
    clips = render_scenes(scenes, CONFIG)
    visible_BTI = visible_pixels(clips)
    return [_Told(scene, clips, b, visible_BTI[b]) for b, scene in enumerate(scenes)]


def _asked(told, kind):
    found = [(t, q) for t in told for q in t.description.questions if q.kind == kind]
    assert len(found) >= 5, f"{kind}: {len(found)} questions in {len(told)} clips"
    return found


def _named(t, text):
    """Names in a text, in the order of their places in it."""
    found = [
        (m.start(), n) for n in sorted(t.id_of, key=len, reverse=True) for m in re.finditer(re.escape(n) + r"\b", text)
    ]
    return [name for _, name in sorted(found)]


def test_visible_pixels_are_those_of_the_ids(told):
    clips = told[0].clips
    counts_BTI = visible_pixels(clips)
    assert (counts_BTI.sum(-1) == 48 * 64).all()
    for b, t, i in ((0, 0, 0), (3, 2, 5), (7, 5, 9)):
        assert counts_BTI[b, t, i] == (clips.instance_BTHW[b, t] == i).sum()


def test_same_seed_same_words(told):
    clips, scene = told[4].clips, told[4].scene
    again = describe(scene, visible_pixels(clips)[4], np.random.default_rng(4))
    assert again == told[4].description
    assert again != describe(scene, visible_pixels(clips)[4], np.random.default_rng(5))


def test_every_question_has_one_right_answer(told):
    kinds = set()
    for t in told:
        for q in t.description.questions:
            kinds.add(q.kind)
            if q.number is None:
                assert q.answer in q.choices and len(set(q.choices)) == len(q.choices) >= 2, q
            else:
                assert not q.choices and np.isfinite(q.number) and float(q.answer) == q.number, q
    assert len(kinds) == 17, sorted(kinds)


def test_sides_are_those_of_the_pixels(told):
    right = []
    for t, q in _asked(told, "left_right"):
        a, b = (t.pixels(name, 0)[1].mean() for name in _named(t, q.text)[:2])
        right.append((a < b) == (q.answer == "left"))
    print(f"left and right: {np.mean(right):.3f} of {len(right)}")
    assert np.mean(right) > 0.9  # the middle of an object that is cut off lies elsewhere than its pixels' mean


def test_nearer_is_that_of_the_depth(told):
    right = []
    for t, q in _asked(told, "nearer"):
        far = {name: np.linalg.norm(t.pixels(name, 0)[0], axis=1).mean() for name in q.choices}
        right.append(min(far, key=far.get) == q.answer)
    print(f"nearer: {np.mean(right):.3f} of {len(right)}")
    assert np.mean(right) > 0.9


def test_counts_are_those_of_the_ids(told):
    for t, q in _asked(told, "object_count"):
        ids_THW = t.clips.instance_BTHW[t.b]
        share = [max((ids_THW[f] == o.instance).float().mean().item() for f in range(6)) for o in t.scene.objects]
        kinds = {
            o.kind for o in t.scene.objects if f" {o.kind}" in q.text or (o.kind == "person" and "people" in q.text)
        }
        kinds |= {o.kind for o in t.scene.objects if o.kind == "shelf" and "shelves" in q.text}
        kind = max(kinds, key=len)
        shares = [s for s, o in zip(share, t.scene.objects, strict=True) if o.kind == kind]
        assert sum(s >= SEEN_SHARE for s in shares) == q.number
        assert not any(HINT_SHARE < s < SEEN_SHARE for s in shares)


def test_existence_agrees_with_the_classes(told):
    same = {"chair": "chair", "plant": "plant", "sofa": "sofa", "shelf": "shelf", "door": "door", "window": "window"}
    checked = 0
    for t, q in _asked(told, "existence"):
        kind = q.text.split()[2]
        if kind in same and (kind != "chair" or not any(o.kind == "stool" for o in t.scene.objects)):
            share = (t.clips.class_BTHW[t.b] == CLASS_ID[same[kind]]).float().mean((1, 2)).max()
            assert (share >= SEEN_SHARE) if q.answer == "yes" else (share < 4 * HINT_SHARE), q
            checked += 1
    assert checked > 5


def test_distances_lie_between_nearest_and_farthest_points(told):
    for t, q in _asked(told, "absolute_distance"):
        a, b = (t.cloud(name)[::7] for name in _named(t, q.text)[:2])
        gaps = np.linalg.norm(a[:, None] - b[None], axis=-1)
        sizes = [max(o.size_m_3) for o in t.scene.objects if o.instance in {t.id_of[n] for n in _named(t, q.text)[:2]}]
        assert gaps.min() - 0.1 <= q.number <= gaps.max() + 0.6 * sum(sizes), q


def test_order_of_appearance_is_that_of_the_ids(told):
    checked = 0
    for t, q in _asked(told, "appearance_order"):
        names = q.answer.split(", ")
        shares = [(t.clips.instance_BTHW[t.b] == t.id_of[n]).float().mean((1, 2)) for n in names]
        first = [int((s >= SEEN_SHARE).int().argmax()) for s in shares]
        assert first == sorted(first) and len(set(first)) == len(first), (q, first)
        checked += 1
    assert checked >= 5


def test_camera_moves_are_those_of_the_poses(told):
    for t, q in _asked(told, "camera_motion"):
        x, _, z = t.clips.world_from_camera_BT44[t.b, -1, :3, 3].tolist()
        seen = {"moves forward": z, "moves backward": -z, "moves to the left": -x, "moves to the right": x}
        if q.answer == "stays where it is":
            assert np.hypot(x, z) < 0.09
        else:
            assert seen[q.answer] == max(seen.values()) > 0.05, (q, x, z)


def test_camera_turns_are_those_of_the_poses(told):
    """A turn to the left brings the old view direction to the right of the new one."""
    for t, q in _asked(told, "camera_turn_side"):
        turns = t.clips.world_from_camera_BT44[t.b].double()
        step = turns[:-1, :3, :3].mT @ turns[1:, :3, :3]
        to_right = sum(float(torch.atan2(s[0, 2], s[2, 2])) for s in step)
        if abs(np.degrees(to_right)) > 8:
            assert q.answer == ("right" if to_right > 0 else "left")


def test_directions_are_those_of_the_points(told):
    """From middles of what is seen, in camera axes, y down: left is where the cross product points up."""
    right = []
    for t, q in _asked(told, "relative_direction"):
        a, b, c = (np.median(t.cloud(name), axis=0) for name in _named(t, q.text)[:3])
        down_3 = np.linalg.inv(t.scene.room_from_camera_T44[0])[:3, :3] @ [0, 0, -1.0]
        ahead, aside = (v - down_3 * (v @ down_3) for v in (b - a, c - a))
        turn = np.degrees(np.arctan2(-np.cross(ahead, aside) @ down_3, ahead @ aside))
        right.append(("behind" if abs(turn) > 135 else "left" if turn > 0 else "right") == q.answer)
    print(f"directions: {np.mean(right):.3f} of {len(right)}")
    assert np.mean(right) > 0.8  # only the near sides of things are seen


def test_movers_move_and_others_do_not(told):
    for t, q in _asked(told, "moves"):
        instance = t.id_of[_named(t, q.text)[0]]
        slots = np.flatnonzero(t.scene.instance_K == instance)
        changes = np.ptp(t.scene.centre_TK3[:, slots], axis=0).max() + np.ptp(t.scene.axes_TK33[:, slots], axis=0).max()
        changes += np.ptp(t.scene.present_TK[:, slots].astype(int), axis=0).max()
        assert (changes < 1e-9) == (q.answer == "yes"), q


@pytest.mark.parametrize(
    "kind", ["left_right", "existence", "moves", "camera_turn_side", "relative_direction", "route"]
)
def test_position_of_the_right_choice_tells_nothing(told, kind):
    first = [q.choices[0] == q.answer for _, q in _asked(told, kind)]
    chance = np.mean([1 / len(q.choices) for _, q in _asked(told, kind)])
    assert abs(np.mean(first) - chance) < 3.5 * np.sqrt(chance * (1 - chance) / len(first))


def test_captions_name_what_is_seen(told):
    for t in told:
        caption = t.description.caption
        assert caption.endswith(".") and "The camera" in caption and len(caption.split()) > 6
        best = max(t.scene.objects, key=lambda o: visible_share(t, o), default=None)
        if best is not None and best.kind != "gripper" and visible_share(t, best) > SEEN_SHARE:
            assert best.kind.split()[-1][:4] in caption or "people" in caption, (best.kind, caption)


def visible_share(t, thing):
    return float((t.clips.instance_BTHW[t.b] == thing.instance).float().mean((1, 2)).max())


@pytest.mark.parametrize(
    "rgb, word",
    [((0.6, 0.02, 0.02), "red"), ((0.02, 0.4, 0.03), "green"), ((0.02, 0.05, 0.6), "blue"), ((0.9, 0.9, 0.9), "white"),
     ((0.2, 0.2, 0.2), "grey"), ((0.005, 0.005, 0.006), "black"), ((0.2, 0.09, 0.04), "brown"),
     ((0.8, 0.7, 0.02), "yellow"), ((0.5, 0.05, 0.3), "pink")],
)  # fmt: skip
def test_colour_names(rgb, word):
    assert colour_name(np.array(rgb)) == word
