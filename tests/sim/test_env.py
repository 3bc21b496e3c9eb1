"""The contract of the environment: Gymnasium's, LeRobot's, and that of its own geometry."""

from __future__ import annotations

import importlib.metadata

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lerobot_env_omnistream import RobosuiteEnvConfig, SimError, geometry, rendering, tasks


def flat(observation: dict) -> dict[str, np.ndarray]:
    images = {f"pixels/{name}": image for name, image in observation["pixels"].items()}
    return {key: value for key, value in observation.items() if key != "pixels"} | images


def assert_same(first: dict, second: dict) -> None:
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


# ---- Gymnasium ----


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_accepts_the_environment(make_env):
    check_env(make_env(cameras=["agentview"], episode_length=3), skip_render_check=True)


def test_observations_have_the_declared_shapes(lift_env):
    observation, info = lift_env.reset(seed=0)
    assert lift_env.observation_space.contains(observation)
    assert info["is_success"] is False
    assert observation["pixels"]["agentview"].shape == (64, 80, 3)
    assert observation["depth_m.agentview"].shape == (64, 80)
    assert observation["intrinsics.robot0_eye_in_hand"].shape == (3, 3)
    assert observation["world_from_camera.robot0_eye_in_hand"].shape == (4, 4)
    assert observation["agent_pos"].shape == (7 + 3 + 4 + 2,)
    assert lift_env.render().shape == (64, 80, 3)


def test_same_seed_same_episode_other_seed_other_episode(lift_env):
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 7))

    def episode(seed: int) -> list[dict]:
        return [lift_env.reset(seed=seed)[0], *(lift_env.step(action)[0] for action in actions)]

    first, second, other = episode(1), episode(1), episode(2)
    for one, two in zip(first, second, strict=True):
        assert_same(one, two)
    assert (first[0]["pixels"]["agentview"] != other[0]["pixels"]["agentview"]).any()


def test_the_seed_decides_across_environments_and_leaves_global_randomness_alone(lift_env, make_env):
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    another = make_env(depth=True)
    assert_same(lift_env.reset(seed=3)[0], another.reset(seed=3)[0])
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_an_episode_is_truncated_at_its_horizon(make_env):
    env = make_env(cameras=[], episode_length=2)
    env.reset(seed=0)
    ends = [env.step(np.zeros(7))[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]


def test_object_spread_narrows_where_objects_stand(make_env):
    env = make_env(cameras=[], object_spread=0.0)
    places = []
    for seed in range(3):
        env.reset(seed=seed)
        places.append(env.world.sim.data.get_body_xpos(env.world.cube.root_body)[:2].copy())
    np.testing.assert_allclose(places, np.zeros((3, 2)), atol=1e-6)


def test_joint_control_moves_the_joint_it_names(make_env):
    env = make_env(cameras=[], controller="joint_delta", joint_noise_rad=0.0)
    before = env.reset(seed=0)[0]["agent_pos"][:7]
    action = np.zeros(env.action_space.shape)
    action[3] = 1
    for _ in range(10):
        after = env.step(action)[0]["agent_pos"][:7]
    moved_rad = after - before
    assert moved_rad[3] > 0.03
    assert np.abs(np.delete(moved_rad, 3)).max() < 0.02


# ---- geometry ----


def seen_cube(env, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the pixels that show the cube, and the cube's true centre."""
    model = env.world.sim.model
    geoms = [model.geom_name2id(name) for name in env.world.cube.visual_geoms]
    mask_HW = np.isin(env.geom_ids(camera), geoms)
    return mask_HW, np.array(env.world.sim.data.get_body_xpos(env.world.cube.root_body))


def test_images_are_upright_and_the_cube_is_red(lift_env):
    observation, _ = lift_env.reset(seed=0)
    mask_HW, _ = seen_cube(lift_env, "agentview")
    red = observation["pixels"]["agentview"][mask_HW].mean(0)
    assert mask_HW.sum() >= 8
    assert red[0] > 2 * red[1] and red[0] > 2 * red[2]
    depth_m = observation["depth_m.agentview"]
    assert depth_m[:5].mean() > depth_m[-5:].mean(), "what is at the top of the image is farther away"


@pytest.mark.parametrize("camera", ["agentview", "robot0_eye_in_hand"])
def test_a_projected_object_lies_where_the_image_shows_it(lift_env, camera):
    for seed in range(3):
        observation, _ = lift_env.reset(seed=seed)
        mask_HW, centre_m = seen_cube(lift_env, camera)
        if mask_HW.sum() < 8:
            continue
        pose, intrinsics = observation[f"world_from_camera.{camera}"], observation[f"intrinsics.{camera}"]
        u, v, depth_m = geometry.project(centre_m[None], intrinsics, pose)[0]
        rows, columns = np.nonzero(mask_HW)
        assert abs(u - (columns.mean() + 0.5)) < 1.5 and abs(v - (rows.mean() + 0.5)) < 1.5
        assert np.mean(np.abs(observation[f"depth_m.{camera}"][mask_HW] - depth_m) < 0.04) > 0.9, "all but the rim"


def test_depth_unprojects_onto_table_and_cube(lift_env):
    observation, _ = lift_env.reset(seed=4)
    points_m = geometry.unproject(
        observation["depth_m.agentview"],
        observation["intrinsics.agentview"],
        observation["world_from_camera.agentview"],
    )
    model = lift_env.world.sim.model
    on_table = lift_env.geom_ids("agentview") == model.geom_name2id("table_visual")
    assert on_table.sum() > 500
    # Depth is that of one sample of a pixel, up to 0.4 pixels from its centre; at the rim it may be of another geom.
    error_m = np.abs(points_m[on_table][:, 2] - lift_env.world.table_offset[2])
    assert np.quantile(error_m, 0.99) < 5e-3
    mask_HW, centre_m = seen_cube(lift_env, "agentview")
    half_diagonal_m = np.linalg.norm(lift_env.world.cube.size)
    distance_m = np.linalg.norm(points_m[mask_HW] - centre_m, axis=1)
    assert np.mean(distance_m < half_diagonal_m + 5e-3) > 0.9


def test_what_is_left_out_of_a_picture_is_not_in_it(lift_env):
    """From anywhere, geoms outside the field of view are not drawn, and the picture is what it is with all of them."""
    lift_env.reset(seed=0)
    renderer, data = lift_env._ensure_renderer(), lift_env.world.sim.data._data
    camera, seen = lift_env._camera_ids["agentview"], renderer._in_view
    rng, drawn = np.random.default_rng(0), []
    for _ in range(6):
        rotation_33, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        data.cam_xpos[camera] = rng.uniform(-1, 1, 3) + [0, 0, 1.5]
        data.cam_xmat[camera] = (rotation_33 * np.sign(np.linalg.det(rotation_33))).ravel()
        picture_HW3 = renderer.rgb(data, camera)
        drawn.append(renderer._scene.ngeom)
        renderer._in_view = lambda *_: np.ones(renderer._model.ngeom, bool)
        np.testing.assert_array_equal(picture_HW3, renderer.rgb(data, camera))
        renderer._in_view = seen
        assert drawn[-1] < renderer._scene.ngeom
    assert len(set(drawn)) > 1


def test_projection_and_its_inverse_agree():
    rng = np.random.default_rng(0)
    rotation_33, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    pose_44 = geometry.world_from_camera(rng.normal(size=3), rotation_33 * np.sign(np.linalg.det(rotation_33)))
    intrinsics = geometry.intrinsics(50, 6, 8)
    depth_m = rng.uniform(1, 2, (6, 8))
    pixels = geometry.project(geometry.unproject(depth_m, intrinsics, pose_44).reshape(-1, 3), intrinsics, pose_44)
    u_HW, v_HW = np.meshgrid(np.arange(8) + 0.5, np.arange(6) + 0.5)
    np.testing.assert_allclose(pixels, np.column_stack([u_HW.ravel(), v_HW.ravel(), depth_m.ravel()]), atol=1e-4)


# ---- LeRobot ----


def test_the_distribution_has_the_name_lerobot_looks_for():
    names = [distribution.metadata["Name"] for distribution in importlib.metadata.distributions()]
    assert "lerobot_env_omnistream" in names


def test_lerobot_finds_and_builds_the_environment():
    from lerobot.envs.factory import make_env, make_env_config, make_env_pre_post_processors
    from lerobot.envs.utils import NEW_ROLLOUT_OPTION, close_envs, env_to_policy_features, preprocess_observation
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    config = make_env_config("robosuite", task="Lift", image_height_px=48, image_width_px=64, episode_length=2)
    assert config.type == "robosuite"
    features = env_to_policy_features(config)
    assert features["observation.images.agentview"].shape == (3, 48, 64)
    assert features["observation.state"].shape == (16,) and features["action"].shape == (7,)
    envs = make_env(config, n_envs=2)
    vector = envs["robosuite"][0]
    try:
        observation, _ = vector.reset(seed=[0, 1], options={NEW_ROLLOUT_OPTION: True})
        batch = preprocess_observation(observation)
        assert batch["observation.images.agentview"].shape == (2, 3, 48, 64)
        assert batch["observation.state"].shape == (2, 16)
        assert batch["observation.intrinsics.agentview"].shape == (2, 3, 3)
        assert batch["observation.world_from_camera.agentview"].shape == (2, 4, 4)
        assert vector.call("task_description") == ("lift the red cube",) * 2
        assert vector.call("_max_episode_steps") == (2, 2)
        processed = make_env_pre_post_processors(config, None)[0](batch)
        matrix_B44 = batch["observation.world_from_camera.agentview"]
        assert processed["observation.world_from_camera.agentview"].equal(matrix_B44.reshape(2, 16))
        assert processed["observation.images.agentview"].equal(batch["observation.images.agentview"])
        for _ in range(2):
            _, _, _, truncated, info = vector.step(np.zeros((2, 7), np.float32))
        assert truncated.all() and info["is_success"].tolist() == [False, False]
        assert vector.unwrapped.metadata["render_fps"] == 20
    finally:
        close_envs(envs)


# ---- errors ----


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"task": "Juggle"}, ["'Juggle'", "Lift", "TwoArmLift", "Door"]),
        ({"robot": "R2D2"}, ["'R2D2'", "Panda"]),
        ({"controller": "voice"}, ["'voice'", "osc_pose_delta", "joint_delta"]),
        ({"cameras": ["attic"]}, ["'attic'", "agentview", "robot0_eye_in_hand"]),
        ({"cameras": ["agentview", "agentview"]}, ["twice"]),
        ({"state_keys": ["mood"]}, ["'mood'", "joint_pos"]),
        ({"renderer": "crayon"}, ["'crayon'", "egl", "osmesa"]),
        ({"cameras": [], "state_keys": []}, ["cameras", "state_keys"]),
        ({"fps": 0}, ["fps is 0", "1 ... 500 Hz"]),
        ({"image_width_px": 7}, ["image_width_px is 7", "16 ... 4096 pixels"]),
        ({"stress_action_delay_steps": -1}, ["stress_action_delay_steps is -1", "steps"]),
        ({"camera_jitter_deg": 90}, ["camera_jitter_deg is 90", "degrees"]),
    ],
)
def test_a_wrong_setting_is_named_with_the_choices(settings, named):
    with pytest.raises(SimError) as error:
        RobosuiteEnvConfig(**settings)
    assert [part for part in named if part not in str(error.value)] == []


def test_stepping_before_a_reset_and_odd_actions_are_refused(make_env):
    env = make_env(cameras=[])
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(7))
    env.reset(seed=0)
    with pytest.raises(SimError, match=r"\(7,\) finite numbers"):
        env.step(np.zeros(6))
    with pytest.raises(SimError, match="finite"):
        env.step(np.full(7, np.nan))


def test_a_missing_renderer_says_how_to_get_one(renderer_variables):
    renderer_variables.setenv("MUJOCO_GL", "")
    renderer_variables.setattr(rendering.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(SimError, match=r"no renderer.*libegl1.*libosmesa6.*MUJOCO_GL"):
        rendering.choose_backend("auto")
    renderer_variables.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(SimError, match=r"'glfw'.*egl, osmesa"):
        rendering.choose_backend("auto")


def test_every_task_has_a_text():
    assert tasks.task_text("Lift") == "lift the red cube"
    assert tasks.task_text("TwoArmPegInHole") == "two arm peg in hole"
    assert {"Lift", "Stack", "PickPlaceCan", "NutAssemblySquare", "Door", "Wipe"} <= set(tasks.known_tasks())
