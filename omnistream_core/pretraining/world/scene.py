"""Sampling of one random room: shell, furniture, movers, lamps, camera path. numpy only, seeded.

Room axes: z up, floor at z = 0, corner at the origin, metres.
Shapes: T frames, K primitive slots (room first, then boxes, spheres, cylinders), M material numbers.
"""

import functools
from dataclasses import dataclass, field

import numpy as np

from . import furniture
from .camera_path import sample_path, wobble
from .texture import sample_material

SLOTS = dict(box=18, sphere=3, cylinder=3)
FIRST = dict(box=1, sphere=1 + SLOTS["box"], cylinder=1 + SLOTS["box"] + SLOTS["sphere"])
SLOT_COUNT = 1 + sum(SLOTS.values())
SHELL_MATERIALS = 4  # walls, floor, ceiling, accent wall; slot k > 0 uses material k + 3


@dataclass(frozen=True, kw_only=True)
class Scene:
    """slots_TK8: centre xyz, half size xyz, cos yaw, sin yaw. lamps_26: position, colour (radiant, at 1 m).

    instance_K: id of each slot. effects_9: exposure, white balance rgb, gamma, vignette, noise, blur, seed.
    """

    slots_TK8: np.ndarray
    instance_K: np.ndarray
    materials_NM: np.ndarray
    lamps_26: np.ndarray
    ambient_3: np.ndarray
    room_from_camera_T44: np.ndarray
    focal_px: float
    effects_9: np.ndarray


@dataclass
class _Plan:
    """The room while it is being filled."""

    rng: np.random.Generator
    room_m: np.ndarray
    times_s: np.ndarray
    slots_TK8: np.ndarray
    materials_NM: np.ndarray
    instance_K: np.ndarray = field(default_factory=lambda: np.zeros(SLOT_COUNT, np.int64))
    used: dict = field(default_factory=lambda: dict.fromkeys(SLOTS, 0))
    taken: list = field(default_factory=list)  # (x, y, radius) on the ground plan
    tops: list = field(default_factory=list)  # (x, y, reach, height) of table tops
    things: int = 0

    def add(self, thing, base_T3, yaw_T, instance=None):
        """Put a thing's parts into free slots; False when they do not fit."""
        need = {kind: sum(part[0] == kind for part in thing.parts) for kind in SLOTS}
        if any(self.used[kind] + need[kind] > SLOTS[kind] for kind in SLOTS):
            return False
        self.things += instance is None
        for part in thing.parts:
            self._add_part(part, base_T3, yaw_T, self.things if instance is None else instance)
        return True

    def _add_part(self, part, base_T3, yaw_T, instance):
        kind, offset, half, yaw, material = part
        slot = FIRST[kind] + self.used[kind]
        self.used[kind] += 1
        cos_T, sin_T = np.cos(yaw_T), np.sin(yaw_T)
        rows_T8 = self.slots_TK8[:, slot]
        rows_T8[:, 0] = base_T3[:, 0] + cos_T * offset[0] - sin_T * offset[1]
        rows_T8[:, 1] = base_T3[:, 1] + sin_T * offset[0] + cos_T * offset[1]
        rows_T8[:, 2] = base_T3[:, 2] + offset[2]
        rows_T8[:, 3:6] = half
        rows_T8[:, 6], rows_T8[:, 7] = np.cos(yaw_T + yaw), np.sin(yaw_T + yaw)
        self.materials_NM[slot + SHELL_MATERIALS - 1] = material
        self.instance_K[slot] = instance

    def still(self, thing, base, yaw, instance=None):
        frames = len(self.times_s)
        return self.add(thing, np.tile(np.asarray(base, float), (frames, 1)), np.full(frames, yaw), instance)

    def remove(self, slots):
        self.slots_TK8[:, slots] = _ABSENT


_ABSENT = np.array([0, 0, -100, 0.01, 0.01, 0.01, 1, 0])


def sample_scene(seed, config):
    """The scene of one seed; the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(int(seed)))
    rate_hz = config.rate_hz
    speed = rng.uniform(*config.speed_scale)
    times_s = np.arange(config.frames) / rate_hz
    plan = _empty_room(rng, times_s)
    _partitions(plan)
    _fill(plan, int(rng.integers(config.objects[0], config.objects[1] + 1)), speed, config.moving_share)
    poses_T44 = _camera(plan, rate_hz, speed)
    fov = np.radians(rng.uniform(*config.fov_x_deg))
    lamps_26, ambient_3 = _lamps(rng, plan.room_m)
    return Scene(
        slots_TK8=plan.slots_TK8.astype(np.float32),
        instance_K=plan.instance_K,
        materials_NM=plan.materials_NM,
        lamps_26=lamps_26.astype(np.float32),
        ambient_3=ambient_3.astype(np.float32),
        room_from_camera_T44=poses_T44,
        focal_px=float(config.width_px / 2 / np.tan(fov / 2)),
        effects_9=_effects(rng),
    )


def _empty_room(rng, times_s):
    room_m = np.array([rng.uniform(3, 8), rng.uniform(3, 8), rng.uniform(2.3, 3.5)])
    if rng.random() < 0.15:
        room_m[:2] = rng.permutation([rng.uniform(7, 16), rng.uniform(1.6, 2.6)])
    slots_TK8 = np.tile(_ABSENT, (len(times_s), SLOT_COUNT, 1))
    slots_TK8[:, 0] = (*room_m / 2, *room_m / 2, 1, 0)
    wall = sample_material(rng, _WALLS, brightness=(0.45, 0.95), saturation=(0, 0.35))
    floor = sample_material(rng, _FLOORS, brightness=(0.2, 0.8), saturation=(0, 0.4))
    ceiling = sample_material(rng, ("plain", "plain", "tiles"), brightness=(0.8, 0.97), saturation=(0, 0.1))
    accent = wall if rng.random() < 0.6 else sample_material(rng, _WALLS, brightness=(0.3, 0.9))
    materials_NM = np.tile(wall, (SHELL_MATERIALS + SLOT_COUNT - 1, 1))
    materials_NM[:SHELL_MATERIALS] = wall, floor, ceiling, accent
    return _Plan(rng, room_m, times_s, slots_TK8, materials_NM)


_WALLS = ("plain", "plain", "plain", "marble", "bricks", "stripes", "tiles", "patches", "dots")
_FLOORS = ("planks", "planks", "planks", "tiles", "tiles", "marble", "plain", "patches")


def _partitions(plan):
    """Inner walls and pillars; part of the shell (id 0)."""
    rng, (length, width, height) = plan.rng, plan.room_m
    count = rng.integers(0, 3) if rng.random() < 0.4 else 0
    for _ in range(count if min(length, width) > 3 else 0):
        x, y = rng.uniform(1, length - 1), rng.uniform(1, width - 1)
        look = plan.materials_NM[0] if rng.random() < 0.6 else sample_material(rng, _WALLS)
        size = np.array([rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4), height])
        if rng.random() < 0.6:  # a wall that juts out from y = 0 or y = width
            size[:2] = 0.12, rng.uniform(0.8, width * 0.6)
            y = size[1] / 2 if rng.random() < 0.5 else width - size[1] / 2
        plan.taken.append((x, y, size[1] / 2))
        part = ("box", np.array([0, 0, height / 2]), size / 2, 0.0, look)
        plan.still(furniture.Thing(parts=[part], radius_m=0, depth_m=0), (x, y, 0), 0.0, instance=0)


def _fill(plan, count, speed, moving_share):
    rng = plan.rng
    movers = int(rng.integers(1, 4)) if rng.random() < moving_share else 0
    for index in range(count):
        if index < movers:
            _mover(plan, speed)
        elif plan.tops and rng.random() < 0.45:
            _on_top(plan)
        elif rng.random() < 0.55:
            _against_wall(plan, (furniture.cupboard, furniture.cupboard, furniture.sofa, furniture.table))
        else:
            _on_floor(plan)
    for _ in range(rng.integers(0, 4)):
        _hang(plan)


def _free_spot(plan, radius_m, spots):
    for x, y, yaw in spots:
        if all(np.hypot(x - a, y - b) > 0.8 * (radius_m + r) for a, b, r in plan.taken):
            return x, y, yaw
    return None


def _place(plan, thing, spots):
    spot = _free_spot(plan, thing.radius_m, spots)
    if spot is None or not plan.still(thing, (spot[0], spot[1], 0.0), spot[2]):
        return
    plan.taken.append((spot[0], spot[1], thing.radius_m))
    if thing.top_m:
        plan.tops.append((spot[0], spot[1], thing.depth_m / 2, thing.top_m))


def _against_wall(plan, makers):
    rng = plan.rng
    thing = makers[rng.integers(len(makers))](rng)
    _place(plan, thing, [_wall_spot(rng, plan.room_m, thing.depth_m / 2 + 0.01, thing.radius_m) for _ in range(6)])


def _wall_spot(rng, room_m, gap_m, half_width_m):
    """Ground point at a random wall and the yaw that faces away from it."""
    side = rng.integers(4)
    along = room_m[1 - side % 2]
    reach = min(half_width_m + 0.05, along / 2)
    where = rng.uniform(reach, along - reach)
    far = room_m[side % 2]
    point = [gap_m if side < 2 else far - gap_m, where]
    x, y = point if side % 2 == 0 else point[::-1]
    return x, y, (0.0, np.pi / 2, np.pi, -np.pi / 2)[side]


def _on_floor(plan):
    rng, room_m = plan.rng, plan.room_m
    makers = (furniture.table, furniture.chair, furniture.crate, furniture.crate, furniture.ball, furniture.drum)
    thing = makers[rng.integers(len(makers))](rng)
    edge = np.minimum(thing.radius_m + 0.05, room_m / 2)
    xy_62 = rng.uniform(edge[:2], room_m[:2] - edge[:2], size=(6, 2))
    _place(plan, thing, [(x, y, rng.uniform(0, 2 * np.pi)) for x, y in xy_62])


def _on_top(plan):
    rng = plan.rng
    x, y, reach, height = plan.tops[rng.integers(len(plan.tops))]
    maker = (furniture.crate, furniture.ball, furniture.drum)[rng.integers(3)]
    thing = maker(rng, 0.05, 0.16) if maker is not furniture.crate else maker(rng, 0.08, 0.35)
    shift = rng.uniform(-1, 1, size=2) * max(reach - thing.radius_m, 0.0)
    plan.still(thing, (x + shift[0], y + shift[1], height), rng.uniform(0, 2 * np.pi))


def _hang(plan):
    thing = furniture.hanging(plan.rng)
    x, y, yaw = _wall_spot(plan.rng, plan.room_m, 0.0, thing.radius_m)
    tall = 2 * thing.parts[0][2][2]
    plan.still(thing, (x, y, plan.rng.uniform(0.7, max(0.71, plan.room_m[2] - tall - 0.1))), yaw)


def _mover(plan, speed):
    """A thing that slides, rolls, bounces, flies or swings."""
    rng, room_m, times_s = plan.rng, plan.room_m, plan.times_s
    makers = (furniture.walker, furniture.walker, furniture.ball, furniture.crate, furniture.drum, furniture.chair)
    index = rng.integers(len(makers))
    thing = makers[index](rng)
    edge = np.minimum(thing.radius_m + 0.1, room_m[:2] / 2 - 0.05)
    heading, pace = rng.uniform(0, 2 * np.pi), speed * rng.uniform(0.2, 1.2)
    step_T2 = pace * times_s[:, None] * np.array([np.cos(heading), np.sin(heading)])
    base_T3 = np.zeros((len(times_s), 3))
    base_T3[:, :2] = _fold(rng.uniform(edge, room_m[:2] - edge) + step_T2, edge, room_m[:2] - edge)
    base_T3[:, 2] = _lift(rng, times_s, speed, room_m[2], index)
    turn = rng.normal(0, 0.6) * speed
    plan.add(thing, base_T3, rng.uniform(0, 2 * np.pi) + turn * times_s)


def _lift(rng, times_s, speed, height_m, index):
    """Height of a mover above the floor; walkers and chairs stay down."""
    style = rng.random()
    if index in (0, 1, 5) or style < 0.4:
        return np.zeros_like(times_s)
    if style < 0.7:
        high, rate = rng.uniform(0.2, 0.9), rng.uniform(0.4, 1.0)
        phase_T = (times_s * rate + rng.uniform()) % 1
        return high * 4 * phase_T * (1 - phase_T)
    level = rng.uniform(0.4, height_m - 1.2)
    return np.clip(level + wobble(rng, times_s, 1, (0.1, 0.5), (0.3 * speed,))[:, 0], 0, height_m - 0.8)


def _fold(value_T2, low_2, high_2):
    """Reflect at the walls."""
    span_2 = np.maximum(high_2 - low_2, 1e-3)
    return low_2 + span_2 - np.abs((value_T2 - low_2) % (2 * span_2) - span_2)


def _camera(plan, rate_hz, speed):
    """A clear path; when the room is too full, things are taken out until there is one."""
    clearance = functools.partial(_clearance, plan)
    for attempt in range(12):
        slower = speed * 0.85 ** (attempt // 2)
        poses_T44 = sample_path(plan.rng, plan.room_m, clearance, plan.times_s, rate_hz, slower)
        if poses_T44 is not None:
            return poses_T44
        if attempt >= 3:
            plan.remove(plan.rng.choice(np.arange(1, SLOT_COUNT), size=6, replace=False))
    raise RuntimeError("no clear camera path was found in the room; this is a bug in the sampling limits")


def _clearance(plan, position_CT3, frames=slice(None)):
    """Distance to walls and to the boxes around all primitives, metres: (C, T)."""
    slots_TK8 = plan.slots_TK8[frames, 1:]
    delta_CTK3 = position_CT3[:, :, None] - slots_TK8[..., :3]
    cos_TK, sin_TK = slots_TK8[..., 6], slots_TK8[..., 7]
    x_CTK = cos_TK * delta_CTK3[..., 0] + sin_TK * delta_CTK3[..., 1]
    y_CTK = cos_TK * delta_CTK3[..., 1] - sin_TK * delta_CTK3[..., 0]
    local_CTK3 = np.stack([x_CTK, y_CTK, delta_CTK3[..., 2]], -1)
    outside_CTK3 = np.maximum(np.abs(local_CTK3) - slots_TK8[..., 3:6], 0)
    things_CT = np.sqrt((outside_CTK3**2).sum(-1)).min(-1)
    walls_CT = np.minimum(position_CT3, plan.room_m - position_CT3).min(-1)
    return np.minimum(things_CT, walls_CT)


def _lamps(rng, room_m):
    """Two lamps under the ceiling (the second one may be off) and the ambient light."""
    lamps_26, area = np.zeros((2, 6)), room_m[0] * room_m[1]
    for i, share in enumerate((1.0, rng.choice([0.0, 0.6]))):
        lamps_26[i, :2] = rng.uniform(0.15, 0.85, size=2) * room_m[:2]
        lamps_26[i, 2] = room_m[2] - rng.uniform(0.1, 0.6)
        warmth = rng.uniform(-0.15, 0.3)
        lamps_26[i, 3:] = share * (2 + 0.12 * area) * np.array([1 + warmth, 1, 1 - warmth])
    tint = 1 + rng.uniform(-0.15, 0.15, size=3)
    return lamps_26, rng.uniform(0.25, 0.8) * tint


def _effects(rng):
    exposure = np.exp(rng.normal(0, 0.3))
    balance = 1 + rng.normal(0, 0.06, size=3).clip(-0.15, 0.15)
    gamma, vignette = rng.uniform(1.9, 2.5), rng.uniform(0, 0.5)
    noise = rng.uniform(0.002, 0.025)
    blur = rng.uniform(0, 0.5)
    return np.array([exposure, *balance, gamma, vignette, noise, blur, rng.integers(1, 1 << 20)], np.float32)
