"""Each stress changes what it is for and nothing else, and is gone when the next environment has none."""

from __future__ import annotations

import numpy as np
import pytest

from lerobot_env_omnistream.stress import _free_place

CAMERA = "agentview"
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (6, 7))
STATE, POSE, IMAGE, DEPTH, K = (
    "agent_pos",
    f"world_from_camera.{CAMERA}",
    "image",
    f"depth_m.{CAMERA}",
    f"intrinsics.{CAMERA}",
)


def episode(env, seed: int = 3) -> dict[str, np.ndarray]:
    """Every observation of six steps, stacked by key."""
    seen = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in ACTIONS)]
    rows = [
        {key: value for key, value in one.items() if key != "pixels"} | {IMAGE: one["pixels"][CAMERA]} for one in seen
    ]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.fixture(scope="module")
def calm(make_env) -> dict[str, np.ndarray]:
    return episode(make_env(cameras=[CAMERA], depth=True))


STRESSES = [
    ({"stress_camera_moved_m": 0.05}, {POSE, IMAGE, DEPTH}),
    ({"camera_jitter_m": 0.02, "camera_jitter_deg": 2}, {POSE, IMAGE, DEPTH}),
    ({"stress_light_changed": 0.5}, {IMAGE}),
    ({"stress_texture_changed": 0.7}, {IMAGE}),
    ({"stress_distractors": 4}, {IMAGE, DEPTH}),
    ({"stress_image_noise": 0.05}, {IMAGE, DEPTH}),
    ({"stress_frames_dropped": 1.0}, {IMAGE, DEPTH}),
    ({"stress_action_delay_steps": 2}, {STATE, IMAGE, DEPTH}),
    ({"stress_action_noise": 0.3}, {STATE, IMAGE, DEPTH}),
]


@pytest.mark.parametrize(("settings", "changes"), STRESSES, ids=lambda value: "-".join(value))
def test_a_stress_changes_its_own_part_alone_and_repeats(make_env, calm, settings, changes):
    env = make_env(cameras=[CAMERA], depth=True, **settings)
    seen, again = episode(env), episode(env)
    changed = {key for key in calm if not np.array_equal(calm[key], seen[key])}
    assert changed == changes
    for key in seen:
        np.testing.assert_array_equal(seen[key], again[key], err_msg=f"{key} after a second reset with the same seed")
    assert any(not np.array_equal(seen[key], value) for key, value in episode(env, seed=4).items())
    env.close()


def test_a_moved_camera_is_moved_by_just_that(make_env, calm):
    moved = episode(make_env(cameras=[CAMERA], depth=True, stress_camera_moved_m=0.05))
    shift_m = moved[POSE][:, :3, 3] - calm[POSE][:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(shift_m, axis=1), 0.05, atol=1e-6)
    np.testing.assert_array_equal(moved[POSE][:, :3, :3], calm[POSE][:, :3, :3])


def test_dropped_frames_repeat_the_last_that_came(make_env, calm):
    env = make_env(cameras=[CAMERA], depth=True, stress_frames_dropped=0.5)
    dropped = episode(env, seed=3)
    repeats = [np.array_equal(dropped[IMAGE][step], dropped[IMAGE][step - 1]) for step in range(1, 7)]
    assert 0 < sum(repeats) < 6
    for step in range(7):
        source = max(index for index in range(step + 1) if index == 0 or not repeats[index - 1])
        np.testing.assert_array_equal(dropped[IMAGE][step], calm[IMAGE][source])
        np.testing.assert_array_equal(dropped[DEPTH][step], calm[DEPTH][source])


def test_a_delayed_action_takes_effect_late(make_env, calm):
    late = make_env(cameras=[CAMERA], depth=True, stress_action_delay_steps=2)
    start = late.reset(seed=3)[0]["agent_pos"]
    states = [late.step(action)[0]["agent_pos"] for action in ACTIONS]
    still_m = np.abs(np.array(states[:2])[:, 7:10] - start[7:10]).max()
    moved_m = np.abs(calm[STATE][1:3, 7:10] - calm[STATE][0, 7:10]).max()
    assert still_m < 0.3 * moved_m


def test_a_crowded_place_is_the_clearest_and_an_empty_one_is_free():
    rng = np.random.default_rng(0)
    middle = np.zeros(2)
    assert np.abs(_free_place(rng, middle, [])).max() <= 0.3
    grid = [np.array([x, y]) for x in np.linspace(-0.3, 0.3, 9) for y in np.linspace(-0.3, 0.3, 9)]
    place = _free_place(rng, middle, grid)
    assert 0.03 < np.min(np.linalg.norm(np.array(grid) - place, axis=1)) < 0.12


def test_distractors_stand_on_the_table_clear_of_the_cube(make_env):
    env = make_env(cameras=[CAMERA], stress_distractors=4)
    for seed in range(3):
        env.reset(seed=seed)
        cube_m = env.world.sim.data.get_body_xpos(env.world.cube.root_body)
        places_m = np.array([env.world.sim.data.get_body_xpos(f"distractor{index}") for index in range(4)])
        np.testing.assert_allclose(places_m[:, 2], env.world.table_offset[2] + 0.025, atol=2e-3)
        assert np.linalg.norm(places_m[:, :2] - cube_m[:2], axis=1).min() > 0.1
