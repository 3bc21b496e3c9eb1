"""What makes an episode harder than the ones recorded: the scene disturbed at the reset, the sensors at each step."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from lerobot_env_omnistream import tasks
from lerobot_env_omnistream.rendering import CameraRenderer

if TYPE_CHECKING:
    from lerobot_env_omnistream.config import RobosuiteEnvConfig

MODEL_FIELDS = ("cam_pos", "cam_quat", "light_pos", "light_diffuse", "light_ambient", "light_specular", "tex_data")
DISTRACTOR_SHAPES = ("box", "sphere", "cylinder")
DISTRACTOR_HALF_SIZE_M = 0.025
# Distractors stand in this rectangle around the middle of the workspace, no closer than this to an object of the task.
DISTRACTOR_REACH_M, DISTRACTOR_CLEARANCE_M = 0.3, 0.12
TEXTURE_CELLS = 8
DRIFT_S = 0.5
ROBOT_BODIES = ("robot", "gripper", "fixed_mount", "left_eef", "right_eef")


class Disturbances:
    """Changes of the model that last one episode: cameras, objects' spread, lights, textures, distractors."""

    def __init__(self, config: RobosuiteEnvConfig, movable_cameras: tuple[str, ...]):
        self._config = config
        self._movable_cameras = movable_cameras
        self._original: dict[str, np.ndarray] = {}

    def prepare(self, world: Any) -> None:
        """Adds distractors to the model, narrows the objects' ranges, and remembers the model as it is. Once."""
        self._world = world
        if self._config.stress_distractors:
            world.set_xml_processor(self._add_distractors)
            with tasks.global_seed(tasks.BUILD_SEED):
                world.hard_reset = True
                world.reset()
                world.hard_reset = False
        if self._config.object_spread < 1 and getattr(world, "placement_initializer", None) is not None:
            _narrow(world.placement_initializer, self._config.object_spread)
        self._original = {name: np.array(getattr(self._model, name)) for name in self._changed_fields()}

    def undo(self) -> None:
        """Puts the model back as it was built."""
        for name, value in self._original.items():
            getattr(self._model, name)[:] = value

    def apply(self, rng: np.random.Generator, renderer: CameraRenderer | None) -> None:
        """Draws this episode's disturbances, after the world's own reset. One stream each, so that one does not
        change what another draws."""
        cameras, moved, lights, textures, distractors = rng.spawn(5)
        self._jitter_cameras(cameras)
        self._move_cameras(moved)
        self._change_lights(lights)
        self._change_textures(textures, renderer)
        self._place_distractors(distractors)

    @property
    def _model(self) -> Any:
        return self._world.sim.model._model

    def _changed_fields(self) -> list[str]:
        config = self._config
        cameras = config.camera_jitter_m or config.camera_jitter_deg or config.stress_camera_moved_m
        wanted = {"cam": cameras, "light": config.stress_light_changed, "tex": config.stress_texture_changed}
        return [name for name in MODEL_FIELDS if wanted[name.split("_")[0]]]

    # ---- cameras ----

    def _jitter_cameras(self, rng: np.random.Generator) -> None:
        limit_m, limit_rad = self._config.camera_jitter_m, np.deg2rad(self._config.camera_jitter_deg)
        if not limit_m and not limit_rad:
            return
        for camera in self._movable_cameras:
            index = self._world.sim.model.camera_name2id(camera)
            self._model.cam_pos[index] += rng.uniform(-limit_m, limit_m, 3)
            turn = Rotation.from_rotvec(rng.uniform(-limit_rad, limit_rad, 3))
            quat_xyzw = self._model.cam_quat[index][[1, 2, 3, 0]]
            self._model.cam_quat[index] = (Rotation.from_quat(quat_xyzw) * turn).as_quat()[[3, 0, 1, 2]]

    def _move_cameras(self, rng: np.random.Generator) -> None:
        if not self._config.stress_camera_moved_m:
            return
        for camera in self._movable_cameras:
            direction = rng.normal(size=3)
            shift_m = self._config.stress_camera_moved_m * direction / np.linalg.norm(direction)
            self._model.cam_pos[self._world.sim.model.camera_name2id(camera)] += shift_m

    # ---- light and surfaces ----

    def _change_lights(self, rng: np.random.Generator) -> None:
        amount = self._config.stress_light_changed
        if not amount:
            return
        brightness = 1 + amount * rng.choice([-1, 1]) * rng.uniform(0.5, 1)
        for name in ("light_diffuse", "light_ambient", "light_specular"):
            getattr(self._model, name)[:] *= brightness
        self._model.light_pos[:] += rng.uniform(-amount, amount, self._model.light_pos.shape)

    def _change_textures(self, rng: np.random.Generator, renderer: CameraRenderer | None) -> None:
        amount = self._config.stress_texture_changed
        if not amount:
            return
        for texture in self._surroundings():
            start, height, width = (
                int(getattr(self._model, f"tex_{part}")[texture]) for part in ("adr", "height", "width")
            )
            channels = int(self._model.tex_nchannel[texture])
            pixels = self._model.tex_data[start : start + height * width * channels].reshape(height, width, channels)
            pattern = _pattern(rng, height, width, channels)
            pixels[:] = ((1 - amount) * pixels + amount * pattern).astype(np.uint8)
            if renderer is not None:
                renderer.upload_texture(texture)

    def _surroundings(self) -> list[int]:
        """Textures of what hangs on the world itself: floor, walls, tables, bins; not of robots or task objects."""
        model, own = self._model, self._task_bodies()
        textures: set[int] = set()
        for geom in range(model.ngeom):
            body = self._world.sim.model.body_id2name(model.geom_bodyid[geom])
            material = model.geom_matid[geom]
            if material >= 0 and body not in own and not body.startswith(ROBOT_BODIES):
                textures |= {int(texture) for texture in model.mat_texid[material] if texture >= 0}
        return sorted(textures)

    def _task_bodies(self) -> set[str]:
        return {body for thing in self._world.model.mujoco_objects for body in thing.bodies}

    # ---- distractors ----

    def _add_distractors(self, xml: str) -> str:
        root = ET.fromstring(xml)
        rng = np.random.default_rng(self._config.stress_distractors)
        for index in range(self._config.stress_distractors):
            body = ET.SubElement(root.find("worldbody"), "body", name=f"distractor{index}", pos="0 0 -1")
            colour = " ".join(f"{part:.2f}" for part in rng.uniform(0.1, 1, 3))
            shape = {
                "type": DISTRACTOR_SHAPES[index % len(DISTRACTOR_SHAPES)],
                "size": " ".join([str(DISTRACTOR_HALF_SIZE_M)] * 3),
                "rgba": f"{colour} 1",
            }
            ET.SubElement(body, "geom", shape, name=f"distractor{index}", group="1", contype="0", conaffinity="0")
        return ET.tostring(root, encoding="unicode")

    def _place_distractors(self, rng: np.random.Generator) -> None:
        if not self._config.stress_distractors:
            return
        self._world.sim.forward()
        taken = [self._world.sim.data.get_body_xpos(body)[:2] for body in sorted(self._task_bodies())]
        centre = self._workspace_centre()
        for index in range(self._config.stress_distractors):
            place = _free_place(rng, centre, taken)
            height_m = self._surface_height_m(place)
            body = self._world.sim.model.body_name2id(f"distractor{index}")
            self._model.body_pos[body] = [*place, height_m + DISTRACTOR_HALF_SIZE_M]
            taken.append(place)

    def _workspace_centre(self) -> np.ndarray:
        hand = self._world.robots[0].eef_site_id
        site = hand[self._world.robots[0].arms[0]] if isinstance(hand, dict) else hand
        return np.array(self._world.sim.data.site_xpos[site][:2])

    def _surface_height_m(self, place: np.ndarray) -> float:
        """Height of the highest collision geom of the surroundings below a point above the workspace."""
        import mujoco

        start = np.array([*place, 0.95])
        only_collision = np.array([1, 0, 0, 0, 0, 0], np.uint8)
        geom = np.zeros(1, np.int32)
        distance = mujoco.mj_ray(
            self._model, self._world.sim.data._data, start, np.array([0.0, 0, -1]), only_collision, 1, -1, geom
        )
        return float(start[2] - distance) if distance >= 0 else 0.0


def _free_place(rng: np.random.Generator, centre: np.ndarray, taken: list[np.ndarray]) -> np.ndarray:
    """(2,) a place clear of those taken; the clearest of many where all are crowded."""
    places = centre + rng.uniform(-DISTRACTOR_REACH_M, DISTRACTOR_REACH_M, (200, 2))
    clearances = np.full(len(places), np.inf)
    for other in taken:
        clearances = np.minimum(clearances, np.linalg.norm(places - other, axis=1))
    free = np.flatnonzero(clearances > DISTRACTOR_CLEARANCE_M)
    return places[free[0] if len(free) else clearances.argmax()]


def _pattern(rng: np.random.Generator, height: int, width: int, channels: int) -> np.ndarray:
    """(height, width, channels) of random coloured cells, 0 to 255."""
    cells = rng.integers(0, 256, (TEXTURE_CELLS, TEXTURE_CELLS, channels))
    rows = np.arange(height) * TEXTURE_CELLS // height
    columns = np.arange(width) * TEXTURE_CELLS // width
    return cells[rows][:, columns]


def _narrow(sampler: Any, spread: float) -> None:
    """Scales the ranges of a placement sampler, and of those within it, about their middles."""
    for inner in getattr(sampler, "samplers", {}).values():
        _narrow(inner, spread)
    for name in ("x_range", "y_range"):
        if hasattr(sampler, name):
            low, high = getattr(sampler, name)
            setattr(sampler, name, [(low + high) / 2 + spread * (edge - (low + high) / 2) for edge in (low, high)])
    if hasattr(sampler, "rotation"):
        if sampler.rotation is None:
            sampler.rotation = (-np.pi * spread, np.pi * spread)
        elif np.ndim(sampler.rotation) == 1:
            low, high = sampler.rotation
            middle = (low + high) / 2
            sampler.rotation = (middle - spread * (high - low) / 2, middle + spread * (high - low) / 2)


class SensorFaults:
    """Faults of the cameras: dropped frames and noise. State: the last frames that arrived."""

    def __init__(self, config: RobosuiteEnvConfig, rng: np.random.Generator):
        self._noise, self._drop_probability = config.stress_image_noise, config.stress_frames_dropped
        self._drop_rng, self._noise_rng = rng.spawn(2)
        self._last: dict[str, Any] | None = None

    def see(self, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the cameras deliver; ``look`` is called only when a frame is not dropped. The first never is."""
        if self._last is None or self._drop_rng.random() >= self._drop_probability:
            self._last = self._noisy(look())
        return {**self._last}

    def _noisy(self, seen: dict[str, Any]) -> dict[str, Any]:
        if not self._noise:
            return seen
        for name, image in seen["pixels"].items():
            noise = self._noise_rng.normal(0, 255 * self._noise, image.shape)
            seen["pixels"][name] = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
        for name in (name for name in seen if name.startswith("depth_m.")):
            factor = 1 + self._noise_rng.normal(0, self._noise, seen[name].shape)
            seen[name] = (seen[name] * np.maximum(factor, 0)).astype(np.float32)
        return seen


class ActionNoise:
    """Noise on every arm's motions that drifts over ``DRIFT_S``; the gripper, an arm's last number, is spared."""

    def __init__(self, config: RobosuiteEnvConfig, arms: int, rng: np.random.Generator):
        self._strength, self._arms, self._rng = config.stress_action_noise, arms, rng
        self._kept = np.exp(-1 / (config.fps * DRIFT_S))
        self._noise: np.ndarray | None = None

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """(A,) what is carried out in place of an action, in -1 ... 1."""
        if not self._strength:
            return action
        fresh = self._rng.normal(0, self._strength, action.shape)
        fresh.reshape(self._arms, -1)[:, -1] = 0
        last, self._noise = self._noise, fresh
        if last is not None:
            self._noise = self._kept * last + np.sqrt(1 - self._kept**2) * fresh
        return np.clip(action + self._noise, -1, 1)
