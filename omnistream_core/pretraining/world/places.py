"""The places that scenes are set in: shell, what stands where, light, air. One function a place; each fills a Plan."""

import numpy as np

from . import furniture
from .camera_path import sample_path
from .film import sample_effects
from .material import FLOORS, WALLS, sample_material
from .motion import sample_track
from .scene import SHELL_MATERIALS, SLOT_COUNT, Plan, Scene

_WALL_SIDE = (
    furniture.cupboard,
    furniture.cupboard,
    furniture.shelf,
    furniture.sofa,
    furniture.table,
    furniture.desk,
    furniture.bed,
)
_FREE = (
    furniture.table,
    furniture.chair,
    furniture.chair,
    furniture.crate,
    furniture.sphere,
    furniture.drum,
    furniture.toy,
    furniture.plant,
    furniture.plant,
    furniture.floor_lamp,
    furniture.stool,
    furniture.sofa,
)
_MOVERS = (
    furniture.person,
    furniture.person,
    furniture.sphere,
    furniture.sphere,
    furniture.crate,
    furniture.drum,
    furniture.chair,
    furniture.toy,
)

_OUTDOORS = (
    furniture.tree,
    furniture.tree,
    furniture.post,
    furniture.post,
    furniture.vehicle,
    furniture.low_wall,
    furniture.crate,
    furniture.drum,
    furniture.plant,
    furniture.toy,
    furniture.table,
    furniture.person,
)


def sample_scene(seed, config):
    """The scene of one seed; the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(int(seed)))
    speed = rng.uniform(*config.speed_scale)
    place = config.places[rng.integers(len(config.places))]
    plan = _empty(rng, place, np.arange(config.frames) / config.rate_hz, speed)
    count = int(rng.integers(config.objects[0], config.objects[1] + 1))
    movers = min(count, int(rng.integers(1, 4))) if rng.random() < config.moving_share else 0
    _PLACES[place](plan, count - movers, moving=movers > 0)
    for _ in range(movers):
        _mover(plan)
    mode, poses_T44 = _camera(plan)
    if mode == "wrist" and rng.random() < 0.6:
        plan.add(furniture.fingers(rng), poses_T44[:, :3, 3], poses_T44[:, :3, :3], motion="moves")
    fov = np.radians(rng.uniform(*config.fov_x_deg))
    return _finished(plan, mode, poses_T44, float(config.width_px / 2 / np.tan(fov / 2)))


def _empty(rng, place, times_s, speed):
    wall = sample_material(rng, ("plain",))
    return Plan(
        rng=rng,
        place=place,
        times_s=times_s,
        low_2=np.zeros(2),
        high_2=np.ones(2),
        height_m=2.5,
        speed=speed,
        materials_NM=np.tile(wall, (SHELL_MATERIALS + SLOT_COUNT - 1, 1)),
    )


def _finished(plan, mode, poses_T44, focal_px):
    light_C = np.concatenate([plan.lamps_26.ravel(), plan.ambient_3, plan.fog_4])
    return Scene(
        centre_TK3=plan.centre_TK3,
        axes_TK33=plan.axes_TK33,
        half_K3=plan.half_K3,
        shape_K3=plan.shape_K3,
        present_TK=plan.present_TK,
        instance_K=plan.instance_K,
        materials_NM=plan.materials_NM,
        classes_N=plan.classes_N,
        light_C=light_C,
        room_from_camera_T44=poses_T44,
        focal_px=focal_px,
        effects_E=sample_effects(plan.rng),
        place=plan.place,
        area_m_2=tuple((plan.high_2 - plan.low_2).tolist()),
        camera_motion=mode,
        times_s=plan.times_s,
        objects=tuple(plan.objects),
    )


def _indoors(plan, room_m):
    """Walls, floor, ceiling, lamps of a room with one corner at the origin."""
    rng = plan.rng
    plan.high_2, plan.height_m = np.asarray(room_m[:2]), room_m[2]
    plan.shell(np.asarray(room_m) / 2, np.asarray(room_m) / 2, ("wall", "floor", "ceiling"))
    bright = (0.45, 0.97) if rng.random() < 0.75 else (0.05, 0.6)
    wall = sample_material(rng, WALLS, brightness=bright, saturation=(0, 0.4))
    floor = sample_material(rng, FLOORS, brightness=(0.08, 0.85), saturation=(0, 0.9))
    ceiling = sample_material(
        rng, ("plain", "plain", "plain", "tiles", "planks"), brightness=(0.6, 0.97), saturation=(0, 0.1)
    )
    accent = wall if rng.random() < 0.5 else sample_material(rng, WALLS, brightness=(0.1, 0.9))
    plan.materials_NM[:SHELL_MATERIALS] = wall, floor, ceiling, accent
    _lamps(plan, np.asarray(room_m))
    if rng.random() < 0.05:
        plan.fog_4 = np.array([*(0.5 * rng.random() * np.ones(3) + 0.2), rng.uniform(0.01, 0.12)])


def _lamps(plan, room_m):
    """Two lamps under the ceiling (the second one may be off), their bodies, and the ambient light."""
    rng, area = plan.rng, min(room_m[0] * room_m[1], 60.0)
    for i, share in enumerate((1.0, rng.choice([0.0, 0.6]))):
        plan.lamps_26[i, :2] = rng.uniform(0.12, 0.88, size=2) * room_m[:2]
        plan.lamps_26[i, 2] = room_m[2] - rng.uniform(0.25, 0.8)
        warmth = rng.uniform(-0.15, 0.35)
        plan.lamps_26[i, 3:] = share * (2 + 0.12 * area) * np.array([1 + warmth, 1, 1 - warmth])
        if share and rng.random() < 0.7:
            spot = (plan.lamps_26[i, 0], plan.lamps_26[i, 1], room_m[2])
            lamp = furniture.ceiling_lamp(rng)
            plan.lamps_26[i, 2] = min(plan.lamps_26[i, 2], room_m[2] - lamp.height_m - 0.75)
            plan.still(lamp, spot, rng.choice((0.0, np.pi / 2)))
    tint = 1 + rng.uniform(-0.15, 0.15, size=3)
    plan.ambient_3 = np.exp(rng.uniform(np.log(0.12), np.log(0.9))) * tint


def _room(plan, count, moving):
    rng = plan.rng
    _indoors(plan, (rng.uniform(2.6, 8), rng.uniform(2.6, 8), rng.uniform(2.2, 3.6)))
    _partitions(plan)
    _floors(plan)
    _openings(plan, windows=int(rng.integers(0, 4)), doors=int(rng.integers(0, 3)), pictures=int(rng.integers(0, 4)))
    for _ in range(count):
        if plan.tops and rng.random() < 0.45:
            _on_top(plan, furniture.CLUTTER)
        elif rng.random() < 0.5:
            _against_wall(plan, _WALL_SIDE)
        else:
            _on_floor(plan, _FREE)


def _corridor(plan, count, moving):
    rng = plan.rng
    size = rng.permutation([rng.uniform(6, 22), rng.uniform(1.3, 2.8)])
    _indoors(plan, (*size, rng.uniform(2.2, 3.4)))
    _floors(plan)
    _openings(plan, windows=int(rng.integers(0, 4)), doors=int(rng.integers(1, 6)), pictures=int(rng.integers(0, 6)))
    for _ in range(rng.integers(0, 4)):
        spot = _somewhere(plan, 0.3)
        plan.still(furniture.ceiling_lamp(rng), (*spot, plan.height_m), np.pi / 2 * (size[0] < size[1]))
    for _ in range(min(count, 7)):
        _against_wall(plan, (furniture.cupboard, furniture.shelf, furniture.chair, furniture.plant, furniture.crate))


def _hall(plan, count, moving):
    """A big office, workshop or lounge: islands of tables with what belongs to them."""
    rng = plan.rng
    _indoors(plan, (rng.uniform(6, 18), rng.uniform(6, 13), rng.uniform(2.5, 5.0)))
    _floors(plan)
    _openings(plan, windows=int(rng.integers(1, 6)), doors=int(rng.integers(1, 4)), pictures=int(rng.integers(0, 4)))
    for _ in range(rng.integers(0, 5)):
        _place(
            plan, furniture.pillar(rng, plan.height_m), [(*_somewhere(plan, 0.8), 0.0) for _ in range(3)], scenery=True
        )
    yaw = rng.choice((0.0, np.pi / 2))
    for _ in range(3 + count // 2):
        _island(plan, yaw + rng.choice((0.0, np.pi)))
    for _ in range(count):
        if plan.tops and rng.random() < 0.3:
            _on_top(plan, furniture.CLUTTER)
        else:
            (_against_wall if rng.random() < 0.5 else _on_floor)(plan, _WALL_SIDE if rng.random() < 0.5 else _FREE)


def _island(plan, yaw):
    """A desk with a screen and a chair, or a table with chairs around it."""
    rng = plan.rng
    thing = (furniture.desk if rng.random() < 0.6 else furniture.table)(rng)
    spot = _place(plan, thing, [(*_somewhere(plan, 1.0), yaw) for _ in range(6)])
    if spot is None:
        return
    if thing.kind == "desk":
        plan.still(furniture.screen(rng), _beside(spot, -0.15, rng.uniform(-0.3, 0.3), thing.top_m), yaw)
        plan.still(furniture.chair(rng), _beside(spot, thing.depth_m / 2 + 0.2, 0.0), yaw + np.pi + rng.normal(0, 0.4))
        return
    for side in rng.choice((-1, 1), size=2) if rng.random() < 0.3 else (-1, 1):
        for along in (-0.25, 0.25) if thing.width_m > 1.3 else (0.0,):
            base = _beside(spot, side * (thing.depth_m / 2 + 0.12), along * thing.width_m)
            plan.still(furniture.chair(rng), base, yaw + np.pi * (side > 0) + rng.normal(0, 0.2))


def _beside(spot, ahead_m, left_m, height_m=0.0):
    x, y, yaw = spot
    cos, sin = np.cos(yaw), np.sin(yaw)
    return x + cos * ahead_m - sin * left_m, y + sin * ahead_m + cos * left_m, height_m


def _tabletop(plan, count, moving):
    """Things on a table, seen from near."""
    rng = plan.rng
    _indoors(plan, (rng.uniform(2.5, 6), rng.uniform(2.5, 6), rng.uniform(2.3, 3.2)))
    _openings(plan, windows=int(rng.integers(0, 3)), doors=int(rng.integers(0, 2)), pictures=int(rng.integers(0, 3)))
    thing = (furniture.table if rng.random() < 0.7 else furniture.cupboard)(rng)
    if not thing.top_m:
        thing = furniture.desk(rng)
    middle_2 = 0.5 * plan.high_2 + rng.uniform(-0.4, 0.4, size=2)
    _place(plan, thing, [(*middle_2, rng.uniform(0, np.pi))])
    plan.focus = (*middle_2, thing.top_m + 0.05)
    plan.lamps_26[0, :2] = np.clip(middle_2 + rng.normal(0, 0.8, size=2), 0.2, plan.high_2 - 0.2)
    if rng.random() < 0.4:
        side = _beside((*middle_2, rng.uniform(0, 2 * np.pi)), 0.4, 0.0, thing.top_m)
        speed = plan.speed if moving else 0.0
        plan.add(furniture.robot_arm(rng, plan.times_s, speed), *_fixed(plan, side), motion="moves" if moving else "")
    for _ in range(3 + count):
        _on_top(plan, furniture.TABLETOP, most=0.22)
    for _ in range(rng.integers(0, 4)):
        _against_wall(plan, _WALL_SIDE)


def _fixed(plan, base):
    frames = len(plan.times_s)
    return np.tile(np.asarray(base, float), (frames, 1)), np.tile(np.eye(3), (frames, 1, 1))


def _open(plan, count, moving):
    """Ground under the sky; the sky is a far shell whose depth counts as unknown."""
    rng = plan.rng
    reach, far = rng.uniform(6, 16), rng.uniform(120, 200)
    plan.low_2, plan.high_2, plan.height_m = -reach * np.ones(2), reach * np.ones(2), 12.0
    plan.shell((0, 0, 60), (far, far, 60), ("sky", "ground", "sky"))
    plan.classes_N[3] = plan.classes_N[0]
    _sky_and_ground(plan)
    _sun(plan)
    for _ in range(int(rng.integers(2, 8))):
        _far_away(plan, reach)
    for _ in range(count + 2):
        _on_floor(plan, _OUTDOORS)


def _sky_and_ground(plan):
    rng = plan.rng
    sky = sample_material(
        rng,
        ("gradient", "gradient", "photo", "marble"),
        brightness=(0.5, 1.0),
        saturation=(0.0, 0.6),
        unlit=1.0,
        emission=rng.uniform(0.6, 1.6),
        scale=60.0,
        gradient_m=120.0,
    )
    ground = sample_material(
        rng, ("marble", "fabric", "tiles", "photo", "planks", "bricks", "patches"), photo_m=rng.uniform(1, 6)
    )
    plan.materials_NM[:SHELL_MATERIALS] = sky, ground, sky, sky


def _far_away(plan, reach):
    """A building, a hill or a tree beyond the ground that the camera walks on."""
    rng = plan.rng
    thing = (furniture.building, furniture.building, furniture.hill, furniture.tree)[rng.integers(4)](rng)
    away = rng.uniform(0, 2 * np.pi)
    far_m = reach * 1.1 + thing.radius_m + rng.exponential(15)
    yaw = rng.choice((0, np.pi / 2)) + rng.normal(0, 0.1)
    plan.still(thing, (far_m * np.cos(away), far_m * np.sin(away), 0), yaw, scenery=thing.kind == "hill")


def _sun(plan):
    """A lamp so far away that its light is almost parallel; haze."""
    rng = plan.rng
    high, around = np.radians(rng.uniform(12, 70)), rng.uniform(0, 2 * np.pi)
    far_m = 110.0
    plan.lamps_26[0, :3] = far_m * np.array(
        [np.cos(high) * np.cos(around), np.cos(high) * np.sin(around), np.sin(high)]
    )
    cloudy = rng.random() < 0.3
    power = (0.15 if cloudy else rng.uniform(0.8, 2.0)) * far_m**2
    warm = 0.25 * np.cos(high)
    plan.lamps_26[0, 3:] = power * np.array([1 + warm, 1, 1 - warm])
    plan.ambient_3 = rng.uniform(0.25, 0.8) * np.array([0.9, 1.0, 1.15])
    if rng.random() < 0.5:
        plan.fog_4 = np.array([*(rng.uniform(0.4, 0.9) * np.array([0.95, 1.0, 1.05])), np.exp(rng.uniform(-7, -3.2))])


_PLACES = dict(room=_room, corridor=_corridor, hall=_hall, tabletop=_tabletop, open=_open)


def _partitions(plan):
    """Inner walls and pillars; part of the shell (id 0)."""
    rng, (length, width), height = plan.rng, plan.high_2, plan.height_m
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.4 and min(length, width) > 3 else 0):
        x, y = rng.uniform(1, length - 1), rng.uniform(1, width - 1)
        look = plan.materials_NM[0] if rng.random() < 0.6 else sample_material(rng, WALLS)
        size = (rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4), height)
        if rng.random() < 0.6:  # a wall that juts out from y = 0 or y = width
            size = (0.12, rng.uniform(0.8, width * 0.6), height)
            y = size[1] / 2 if rng.random() < 0.5 else width - size[1] / 2
        wall = furniture.thing(
            [furniture.box((0, 0, height / 2), size, look)],
            "wall",
            "wall",
            look,
            deep=size[0],
            wide=size[1],
            high=height,
        )
        plan.taken.append((x, y, size[1] / 2))
        plan.still(wall, (x, y, 0), 0.0, scenery=True)


def _floors(plan):
    """Sometimes another floor beside the first, and rugs."""
    rng = plan.rng
    if rng.random() < 0.3:
        along = rng.uniform(0.3, 0.7) * plan.high_2[0]
        plan.still(furniture.zone(rng, along, plan.high_2[1]), (along / 2, plan.high_2[1] / 2, 0), 0.0, scenery=True)
    for _ in range(rng.integers(0, 2)):
        plan.still(furniture.rug(rng), (*_somewhere(plan, 1.0), 0.007), rng.uniform(0, np.pi))


def _openings(plan, windows, doors, pictures):
    rng = plan.rng
    walls: list[tuple[float, float, float]] = []
    for maker, number in (
        (furniture.door, doors),
        (furniture.window, windows),
        (furniture.picture, pictures),
        (furniture.radiator, int(rng.integers(0, 2))),
    ):
        for _ in range(number):
            thing = maker(rng)
            low = {"door": 0.0, "radiator": 0.0, "window": rng.uniform(0.5, 1.1)}.get(thing.kind, rng.uniform(0.8, 1.6))
            if low + thing.height_m > plan.height_m - 0.05:
                continue
            for _ in range(4):
                spot = _wall_spot(rng, plan, 0.0, thing.radius_m)
                if all(np.hypot(spot[0] - x, spot[1] - y) > 0.9 * (thing.radius_m + r) for x, y, r in walls):
                    plan.still(thing, (spot[0], spot[1], low), spot[2])
                    walls.append((spot[0], spot[1], thing.radius_m))
                    break


def _somewhere(plan, margin_m):
    margin_2 = np.minimum(margin_m, (plan.high_2 - plan.low_2) / 2)
    return plan.rng.uniform(plan.low_2 + margin_2, plan.high_2 - margin_2)


def _place(plan, thing, spots, scenery=False):
    """Put a thing on the first free one of some spots (x, y, yaw) and return that."""
    free = (
        spot
        for spot in spots
        if all(np.hypot(spot[0] - a, spot[1] - b) > 0.8 * (thing.radius_m + r) for a, b, r in plan.taken)
    )
    x, y, yaw = next(free, (None, None, 0.0))
    if x is None or not plan.still(thing, (x, y, 0.0), yaw, scenery):
        return None
    plan.taken.append((x, y, thing.radius_m))
    if thing.top_m:
        plan.tops.append((x, y, min(thing.depth_m, thing.width_m) / 2, thing.top_m))
    return x, y, yaw


def _against_wall(plan, makers):
    rng = plan.rng
    thing = makers[rng.integers(len(makers))](rng)
    _place(plan, thing, [_wall_spot(rng, plan, thing.depth_m / 2 + 0.04, thing.radius_m) for _ in range(6)])


def _wall_spot(rng, plan, gap_m, half_width_m):
    """Ground point at a random wall and the yaw that faces away from it."""
    side = int(rng.integers(4)) if rng.random() < 0.5 or plan.place != "corridor" else int(np.argmin(plan.high_2))
    along, far = plan.high_2[1 - side % 2], plan.high_2[side % 2]
    reach = min(half_width_m + 0.05, along / 2)
    where = rng.uniform(reach, along - reach)
    point = (gap_m if side < 2 else far - gap_m, where)
    x, y = point if side % 2 == 0 else point[::-1]
    return x, y, (0.0, np.pi / 2, np.pi, -np.pi / 2)[side]


def _on_floor(plan, makers):
    rng = plan.rng
    thing = makers[rng.integers(len(makers))](rng)
    spots = [_somewhere(plan, thing.radius_m + 0.05) for _ in range(6)]
    _place(plan, thing, [(x, y, rng.uniform(0, 2 * np.pi)) for x, y in spots])


def _on_top(plan, makers, most=0.35):
    """Clutter on a table top, not into each other."""
    rng = plan.rng
    x, y, reach, height = plan.tops[rng.integers(len(plan.tops))] if plan.focus is None else plan.tops[0]
    maker = makers[rng.integers(len(makers))]
    small = {
        furniture.crate: (0.03, most),
        furniture.sphere: (0.02, 0.09),
        furniture.drum: (0.015, 0.07),
        furniture.toy: (0.05, most),
    }
    thing = maker(rng, *small.get(maker, ()))
    if thing.radius_m > reach:
        return
    for _ in range(4):
        shift = rng.uniform(-1, 1, size=2) * max(min(reach, 0.45) - thing.radius_m, 0.0)
        spot = (x + shift[0], y + shift[1])
        if all(np.hypot(spot[0] - a, spot[1] - b) > 0.9 * (thing.radius_m + r) for a, b, r in plan.clutter):
            break
    else:
        return
    plan.clutter.append((*spot, thing.radius_m))
    plan.still(thing, (spot[0], spot[1], height), rng.uniform(0, 2 * np.pi))


def _mover(plan):
    rng = plan.rng
    makers = (
        (furniture.vehicle, furniture.person, furniture.person, furniture.sphere, furniture.crate)
        if (plan.place == "open")
        else _MOVERS
    )
    low_2, high_2, height_m = plan.low_2, plan.high_2, plan.height_m
    if plan.focus is not None:
        thing = (furniture.sphere(rng, 0.02, 0.08), furniture.crate(rng, 0.03, 0.15), furniture.toy(rng, 0.05, 0.2))[
            rng.integers(3)
        ]
        middle_2, height_m = np.array(plan.focus[:2]), 0.6
        low_2, high_2 = middle_2 - 0.35, middle_2 + 0.35
    else:
        thing = makers[rng.integers(len(makers))](rng)
    speed = plan.speed * (0.3 if plan.focus is not None else 1.0)
    verb, base_T3, turn_T33, present_T = sample_track(rng, thing, low_2, high_2, height_m, plan.times_s, speed)
    if plan.focus is not None:
        base_T3[:, 2] += plan.focus[2] - 0.05
    plan.add(thing, base_T3, turn_T33, present_T=present_T, motion=verb)


def _camera(plan):
    """A clear path; when the place is too full, things are taken out until there is one."""
    for attempt in range(40):
        found = sample_path(plan, plan.speed * 0.85 ** (attempt // 2))
        if found is not None:
            return found
        if attempt >= 3 and plan.objects:
            plan.remove(plan.objects[plan.rng.integers(len(plan.objects))].instance)
    raise RuntimeError("no clear camera path was found; this is a bug in the sampling limits")
