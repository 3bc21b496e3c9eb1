"""What is said of a clip is what its pixels, depth and poses show, found again another way."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from omnistream_core.pretraining.world import WorldConfig, describe_clips, render_scenes, sample_scene
from omnistream_core.pretraining.world.language import KINDS, LEAST_SHARE, colour_name

WORLD = WorldConfig(height_px=48, width_px=64, frames=6, rate_hz=4.0, supersample=1, shadows=False)
SEEDS = range(96)


@pytest.fixture(scope="module")
def told():
    """(scene, clips, which of them, description) of every seed."""
    rows = []
    for first in range(0, len(SEEDS), 16):
        seeds = SEEDS[first : first + 16]
        scenes = [sample_scene(seed, WORLD) for seed in seeds]
        clips = render_scenes(scenes, WORLD)
        rows += [
            (s, clips, b, d) for b, (s, d) in enumerate(zip(scenes, describe_clips(seeds, scenes, clips), strict=True))
        ]
    return rows


def questions(told, kind):
    for scene, clips, b, description in told:
        for question in description.questions:
            if question.kind == kind:
                yield scene, clips, b, question


def masks(scene, clips, b):
    """kind -> list of (object, (T, H, W) mask) of everything that is seen."""
    found = defaultdict(list)
    for thing in scene.objects:
        mask_THW = (clips.instance_BTHW[b] == thing.instance).numpy()
        if (mask_THW.mean((1, 2)) >= LEAST_SHARE).any():
            found[thing.kind].append((thing, mask_THW))
    return found


def named(scene, clips, b, name):
    """The one object that a name means, with its mask."""
    kind = name.rsplit(" ", 1)[-1]
    there = masks(scene, clips, b)
    candidates = there[kind] or there[name]
    if len(candidates) > 1:
        candidates = [c for c in candidates if f"{colour_name(c[0].colour)} {kind}" == name]
    assert len(candidates) == 1, f"{name!r} does not say which one is meant"
    return candidates[0]


def test_every_kind_of_question_is_asked_and_can_be_answered(told):
    asked = Counter(q.kind for *_, description in told for q in description.questions)
    assert set(asked) == set(KINDS)
    for *_, description in told:
        for question in description.questions:
            assert bool(question.choices) != (question.number is not None)
            if question.choices:
                assert question.answer in question.choices and len(set(question.choices)) == len(question.choices)
                assert all(choice in question.prompt for choice in question.choices)
            else:
                assert float(question.answer) == pytest.approx(question.number, abs=0.5)


def test_counts_are_those_of_the_ids_in_the_pictures(told):
    for scene, clips, b, question in questions(told, "object_count"):
        by_number = {len(things) for things in masks(scene, clips, b).values()}
        assert int(question.answer) in by_number and question.answer != "0"
    for scene, clips, b, question in questions(told, "existence"):
        kind = question.text.removeprefix("Is ").removesuffix(" seen?").split(" ", 1)[1]
        assert (question.answer == "yes") == bool(masks(scene, clips, b)[kind]), question.text


def test_left_is_where_the_pixels_are_further_left(told):
    right_of = []
    for scene, clips, b, question in questions(told, "relative_direction"):
        one, other = (
            question.text.removeprefix("At the start, is the ").removesuffix("?").split(" left or right of the ")
        )
        columns = [np.nonzero(named(scene, clips, b, name)[1][0])[1].mean() for name in (one, other)]
        right_of.append((columns[0] < columns[1]) == (question.answer == "left"))
    assert len(right_of) > 30 and np.mean(right_of) > 0.93, "middles of half hidden things may lie elsewhere"


def test_nearer_is_where_depth_is_less(told):
    agree = []
    for scene, clips, b, question in questions(told, "nearer"):
        depth_HW = clips.depth_m_BTHW[b, 0].numpy()
        metres = {name: np.median(depth_HW[named(scene, clips, b, name)[1][0]]) for name in question.choices}
        agree.append(min(metres, key=metres.get) == question.answer)
    assert len(agree) > 30 and np.mean(agree) > 0.85, "large things begin before their middle"


def test_distance_to_the_camera_fits_the_depth(told):
    for scene, clips, b, question in questions(told, "camera_distance"):
        name = question.text.removeprefix("How far is the ").split(" from the camera")[0]
        thing, mask_THW = named(scene, clips, b, name)
        nearest = clips.depth_m_BTHW[b, 0].numpy()[mask_THW[0]].min()
        reach = np.linalg.norm(thing.size_m_3)
        assert nearest - 0.02 < question.number + reach and question.unit == "m"
        assert question.number < 4 * nearest + reach + 1.0


def test_order_of_appearance_is_that_of_the_frames(told):
    count = 0
    for scene, clips, b, question in questions(told, "appearance_order"):
        first = {n: int((named(scene, clips, b, n)[1].mean((1, 2)) >= LEAST_SHARE).argmax()) for n in question.choices}
        assert min(first, key=first.get) == question.answer and len(set(first.values())) == 2
        count += 1
    assert count > 10


def test_the_camera_goes_where_the_poses_say(told):
    answers = Counter()
    for _, clips, b, question in questions(told, "camera_turn"):
        rotation_T33 = clips.world_from_camera_BT44[b, :, :3, :3].numpy()
        ahead_x_T = rotation_T33[:, 0, 2]  # where the camera looks, sideways in the first camera's axes
        if question.answer == "keeps":
            assert np.abs(ahead_x_T).max() < 0.08
        else:
            assert (ahead_x_T[-1] > 0) == (question.answer == "right") and abs(ahead_x_T[-1]) > 0.15
        answers[question.answer] += 1
    for _, clips, b, question in questions(told, "camera_move"):
        way_T3 = clips.world_from_camera_BT44[b, :, :3, 3].numpy()
        if question.answer == "stays":
            assert np.linalg.norm(way_T3, axis=-1).max() < 0.071
        else:
            assert (way_T3[-1, 2] > 0) == (question.answer == "forward")
        answers[question.answer] += 1
    assert {"left", "right", "keeps", "forward", "stays"} <= set(answers)


def test_what_moves_is_not_where_it_was(told):
    moved = 0
    for scene, clips, b, question in questions(told, "motion"):
        thing, _ = named(scene, clips, b, question.text.removeprefix("What does the ").removesuffix(" do?"))
        assert thing.motion == question.answer
        if question.answer in ("walks", "rolls", "flies", "drives"):
            assert np.ptp(thing.base_T3, axis=0).max() > 0.01
            moved += 1
    assert moved > 0


def test_nearest_of_several_is_the_nearest_by_position(told):
    for scene, clips, b, question in questions(told, "relative_distance"):
        anchor, _ = named(scene, clips, b, question.text.removeprefix("Which is nearest to the ").removesuffix("?"))

        def far(name, anchor=anchor, where=(scene, clips, b)):
            other, _ = named(*where, name)
            middles = [t.base_T3[0] + np.array([0, 0, t.size_m_3[2] / 2]) for t in (anchor, other)]
            return np.linalg.norm(middles[0] - middles[1])

        assert min(question.choices, key=far) == question.answer


def test_guessing_without_looking_gets_nowhere(told):
    """Neither the commonest answer nor the first choice is right much more often than chance."""
    for kind in KINDS:
        rows = [q for *_, q in questions(told, kind) if q.choices]
        if len(rows) < 25:
            continue
        commonest = Counter(q.answer for q in rows).most_common(1)[0][1] / len(rows)
        first = np.mean([q.choices[0] == q.answer for q in rows])
        assert commonest < 0.68 and first < 0.68, f"{kind}: {commonest:.2f}, {first:.2f}"


def test_captions_tell_of_place_things_and_camera(told):
    captions = [description.caption for *_, description in told]
    assert all(c.endswith(".") and "camera" in c for c in captions)
    assert len(set(captions)) > 0.9 * len(captions)
    for scene, clips, b, description in told:
        kinds = masks(scene, clips, b)
        if scene.place in ("room", "corridor", "hall"):
            assert description.caption.startswith(f"A {scene.place}")
        commonest = max(kinds, key=lambda k: len(kinds[k]), default=None)
        assert (
            commonest is None or commonest.split()[-1][:4] in description.caption or commonest in ("person", "fingers")
        )


def test_the_same_seed_says_the_same(told):
    scene, _, _, description = told[5]
    again = sample_scene(SEEDS[5], WORLD)
    clips = render_scenes([again], WORLD)
    assert describe_clips([SEEDS[5]], [again], clips)[0] == description
    assert scene.place == again.place


@pytest.mark.parametrize(
    ("rgb", "name"),
    [((0.9, 0.05, 0.05), "red"), ((0.05, 0.05, 0.8), "blue"), ((0.02, 0.02, 0.02), "black"), ((0.9, 0.9, 0.9), "white"),
     ((0.05, 0.5, 0.08), "green"), ((0.2, 0.2, 0.2), "grey")],
)  # fmt: skip
def test_colours_have_their_everyday_names(rgb, name):
    assert colour_name(np.array(rgb)) == name
