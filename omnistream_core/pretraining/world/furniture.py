"""What may stand in a room: things made of boxes, spheres and upright cylinders.

A part is (kind, offset (3), half size (3), yaw, material), metres, relative to the thing's own base point
on the ground, z up. Furniture faces +x; its back is at -x.
"""

from dataclasses import dataclass

import numpy as np

from .texture import sample_material

SMALL = ("plain", "marble", "stripes", "dots", "patches", "wood", "tiles")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """parts: list of parts; radius_m: reach on the ground plan; top_m: height of a usable top, 0 = none."""

    parts: list
    radius_m: float
    depth_m: float
    top_m: float = 0.0


def _box(offset, size, material, yaw=0.0):
    return ("box", np.asarray(offset, float), np.asarray(size, float) / 2, yaw, material)


def _wood(rng):
    return sample_material(rng, ("wood", "plain", "plain"), saturation=(0.0, 0.5))


def table(rng):
    deep, wide, high = rng.uniform(0.5, 0.9), rng.uniform(0.8, 1.8), rng.uniform(0.4, 0.78)
    look, leg = _wood(rng), _wood(rng)
    parts = [_box((0, 0, high - 0.02), (deep, wide, 0.04), look)]
    if rng.random() < 0.5:
        for side in (-1, 1):
            parts.append(_box((0, side * (wide / 2 - 0.05), high / 2 - 0.02), (deep * 0.9, 0.04, high - 0.04), leg))
    else:
        for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            spot = (x * (deep / 2 - 0.04), y * (wide / 2 - 0.04), high / 2 - 0.02)
            parts.append(_box(spot, (0.05, 0.05, high - 0.04), leg))
    return Thing(parts=parts, radius_m=np.hypot(deep, wide) / 2, depth_m=deep, top_m=high)


def cupboard(rng):
    deep, wide, high = rng.uniform(0.3, 0.6), rng.uniform(0.5, 1.8), rng.uniform(0.6, 2.0)
    families = ("wood", "plain", "books", "books", "patches", "stripes")
    parts = [_box((0, 0, high / 2), (deep, wide, high), sample_material(rng, families))]
    return Thing(parts=parts, radius_m=np.hypot(deep, wide) / 2, depth_m=deep, top_m=high if high < 1.2 else 0.0)


def sofa(rng):
    deep, wide, high = rng.uniform(0.7, 1.0), rng.uniform(1.0, 2.0), rng.uniform(0.35, 0.5)
    look = sample_material(rng, ("plain", "marble", "stripes", "dots"), scale=0.5)
    parts = [_box((0, 0, high / 2), (deep, wide, high), look)]
    parts.append(_box((0.1 - deep / 2, 0, 0.4), (0.2, wide, 0.8), look))
    return Thing(parts=parts, radius_m=np.hypot(deep, wide) / 2, depth_m=deep, top_m=high)


def chair(rng):
    look, seat = _wood(rng), rng.uniform(0.4, 0.5)
    parts = [_box((0, 0, seat), (0.42, 0.42, 0.05), look), _box((-0.2, 0, seat + 0.25), (0.04, 0.42, 0.45), look)]
    parts.append(("cylinder", np.array([0, 0, seat / 2]), np.array([0.05, 0.05, seat / 2 - 0.02]), 0.0, look))
    return Thing(parts=parts, radius_m=0.3, depth_m=0.45)


def crate(rng, low=0.1, high=0.8):
    size = np.exp(rng.uniform(np.log(low), np.log(high), size=3))
    look = sample_material(rng, SMALL, saturation=(0.0, 1.0), scale=np.clip(size.max(), 0.12, 1.0))
    parts = [_box((0, 0, size[2] / 2), size, look)]
    return Thing(parts=parts, radius_m=np.hypot(*size[:2]) / 2, depth_m=size[0])


def ball(rng, low=0.06, high=0.35):
    radius = np.exp(rng.uniform(np.log(low), np.log(high)))
    look = sample_material(rng, SMALL, saturation=(0.0, 1.0), scale=np.clip(2 * radius, 0.12, 1.0))
    parts = [("sphere", np.array([0, 0, radius]), np.full(3, radius), 0.0, look)]
    return Thing(parts=parts, radius_m=radius, depth_m=2 * radius)


def drum(rng, low=0.04, high=0.3):
    radius = np.exp(rng.uniform(np.log(low), np.log(high)))
    tall = radius * rng.uniform(1.0, 5.0)
    look = sample_material(rng, SMALL, saturation=(0.0, 1.0), scale=np.clip(2 * radius, 0.12, 1.0))
    parts = [("cylinder", np.array([0, 0, tall / 2]), np.array([radius, radius, tall / 2]), 0.0, look)]
    return Thing(parts=parts, radius_m=radius, depth_m=2 * radius)


def walker(rng):
    """A person-sized figure: trunk and head."""
    tall, radius = rng.uniform(1.1, 1.6), rng.uniform(0.16, 0.25)
    look = sample_material(rng, SMALL, saturation=(0.0, 1.0), scale=0.5)
    skin = sample_material(rng, ("plain",), brightness=(0.4, 0.8), saturation=(0.3, 0.5))
    parts = [("cylinder", np.array([0, 0, tall / 2]), np.array([radius, radius, tall / 2]), 0.0, look)]
    parts.append(("sphere", np.array([0, 0, tall + 0.1]), np.full(3, 0.12), 0.0, skin))
    return Thing(parts=parts, radius_m=radius, depth_m=2 * radius)


def hanging(rng):
    """A picture, window, screen or door leaf on a wall; its base point is its lower edge on the wall."""
    wide, high = rng.uniform(0.3, 1.6), rng.uniform(0.3, 1.2)
    bright = rng.random() < 0.3
    look = sample_material(rng, ("marble", "patches", "plain", "stripes", "dots"), saturation=(0.0, 0.9),
                           scale=rng.uniform(0.2, 0.8), brightness=(0.7, 1.0) if bright else (0.1, 0.9),
                           emission=rng.uniform(0.5, 1.5) if bright else 0.0)  # fmt: skip
    return Thing(parts=[_box((0.02, 0, high / 2), (0.04, wide, high), look)], radius_m=wide / 2, depth_m=0.0)
