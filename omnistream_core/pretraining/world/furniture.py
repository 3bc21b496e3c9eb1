"""What may stand in a scene: things made of boxes and round bodies. A maker takes rng and returns a Thing."""

import numpy as np

from .material import FABRICS, FLOORS, INDEX, PICTURES, SMALL, WALLS, WOODS, mean_colour, sample_material
from .scene import Thing
from .shapes import (
    BALL,
    BOWL,
    CYLINDER,
    EYE,
    ball,
    barrel,
    box,
    rod,
    rotation_y,
    rotation_z,
    tapered,
    tilted,
    upright,
    waisted,
)

VIVID = (0.0, 1.0)


def thing(parts, kind, label, look, *, deep, wide=None, high, radius=None, top=0.0):
    wide = deep if wide is None else wide
    colour = None if look is None or look[INDEX["photo_blend"]] > 0 else mean_colour(look)
    return Thing(
        parts=parts,
        kind=kind,
        label=label,
        colour=colour,
        radius_m=0.5 * float(np.hypot(deep, wide)) if radius is None else radius,
        depth_m=deep,
        width_m=wide,
        height_m=high,
        top_m=top,
    )


def _wood(rng):
    return sample_material(rng, WOODS, saturation=(0.0, 0.6))


def _metal(rng):
    grey = rng.uniform(0.02, 0.5)
    return sample_material(rng, ("plain",), red=grey, green=grey, blue=grey, specular=rng.uniform(0.2, 0.9))


def _size(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _small_look(rng, size):
    return sample_material(rng, SMALL, saturation=VIVID, scale=float(np.clip(size, 0.05, 1.0)))


def table(rng):
    deep, wide, high = rng.uniform(0.5, 1.1), rng.uniform(0.8, 2.4), rng.uniform(0.35, 0.8)
    look, leg = _wood(rng), _metal(rng) if rng.random() < 0.5 else _wood(rng)
    thick, style = rng.uniform(0.02, 0.06), rng.random()
    low = high - thick
    if style < 0.25:  # round
        wide = deep
        parts = [upright(0, 0, low, high, deep / 2, look), upright(0, 0, 0, low, rng.uniform(0.03, 0.08), leg)]
        parts.append(upright(0, 0, 0, 0.03, deep * 0.3, leg))
        return thing(parts, "table", "table", look, deep=deep, high=high, radius=deep / 2, top=high)
    parts = [box((0, 0, high - thick / 2), (deep, wide, thick), look)]
    if style < 0.6:
        parts += [box((0, s * (wide / 2 - 0.06), low / 2), (deep * 0.9, 0.04, low), leg) for s in (-1, 1)]
    else:
        lean = rng.uniform(-0.06, 0.06) if rng.random() < 0.4 else 0.0
        for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            foot = (x * (deep / 2 - 0.05 + lean), y * (wide / 2 - 0.05 + lean), 0.0)
            parts.append(rod((x * (deep / 2 - 0.06), y * (wide / 2 - 0.06), low), foot, 0.02, leg))
    return thing(parts, "table", "table", look, deep=deep, wide=wide, high=high, top=high)


def desk(rng):
    """A desk with a screen or two on it."""
    deep, wide, high = rng.uniform(0.6, 0.85), rng.uniform(1.1, 1.8), rng.uniform(0.7, 0.78)
    look, leg = _wood(rng), _metal(rng)
    parts = [box((0, 0, high - 0.015), (deep, wide, 0.03), look)]
    parts += [box((0, s * (wide / 2 - 0.05), high / 2 - 0.015), (deep * 0.7, 0.05, high - 0.03), leg) for s in (-1, 1)]
    if rng.random() < 0.5:
        parts.append(box((0, rng.uniform(-0.3, 0.3) * wide, high - 0.3), (deep * 0.8, 0.42, 0.55), _wood(rng)))
    return thing(parts, "desk", "table", look, deep=deep, wide=wide, high=high, top=high)


def screen(rng):
    wide = rng.uniform(0.35, 0.75)
    high, frame = wide * rng.uniform(0.5, 0.65), _metal(rng)
    glow = rng.uniform(0.3, 1.2) if rng.random() < 0.6 else 0.0
    show = sample_material(
        rng, (*PICTURES, "text", "plain"), scale=0.4, photo_m=wide, emission=glow, brightness=(0.02, 0.6)
    )
    parts = [box((0, 0, 0.12 + high / 2), (0.03, wide, high), frame), box((0, 0, 0.06), (0.05, 0.06, 0.12), frame)]
    parts += [box((0.017, 0, 0.12 + high / 2), (0.004, wide - 0.03, high - 0.03), show)]
    parts.append(box((0, 0, 0.01), (0.16, 0.22, 0.02), frame))
    return thing(parts, "screen", "screen", None, deep=0.16, wide=wide, high=high + 0.12)


def laptop(rng):
    wide, look = rng.uniform(0.28, 0.4), _metal(rng)
    deep, lean = wide * 0.68, rng.uniform(0.05, 0.5)
    show = sample_material(rng, (*PICTURES, "text"), scale=0.3, photo_m=wide, emission=0.7)
    axes = rotation_y(np.float64(-lean))
    parts = [box((0, 0, 0.01), (deep, wide, 0.02), look)]
    parts.append(box(np.array([-deep / 2, 0, 0.02]) + axes @ [0, 0, deep / 2], (0.008, wide, deep), look, axes))
    parts.append(
        box(np.array([-deep / 2, 0, 0.02]) + axes @ [0.006, 0, deep / 2], (0.003, wide - 0.02, deep - 0.02), show, axes)
    )
    return thing(parts, "laptop", "screen", look, deep=deep, wide=wide, high=deep)


def cupboard(rng):
    deep, wide, high = rng.uniform(0.3, 0.65), rng.uniform(0.5, 1.8), rng.uniform(0.6, 2.1)
    look = sample_material(rng, ("wood", "wood", "plain", "plain", "plain", "stripes", "photo"))
    parts = [box((0, 0, high / 2), (deep, wide, high), look)]
    if rng.random() < 0.6:  # door leaves or drawers, and their handles
        rows, columns, metal = int(rng.integers(1, 4)), int(rng.integers(1, 4)), _metal(rng)
        front = look if rng.random() < 0.6 else _wood(rng)
        tall, broad = (high - 0.06) / rows, wide / columns
        for i in range(rows):
            for j in range(columns):
                spot = (deep / 2 + 0.005, (j + 0.5) * broad - wide / 2, 0.06 + (i + 0.5) * tall)
                parts.append(box(spot, (0.02, broad - 0.015, tall - 0.015), front))
                if rows * columns < 5:
                    parts.append(
                        box((spot[0] + 0.02, spot[1] + 0.3 * broad, spot[2] + 0.3 * tall), (0.02, 0.02, 0.12), metal)
                    )
    return thing(parts, "cupboard", "cupboard", look, deep=deep, wide=wide, high=high, top=high if high < 1.3 else 0)


def shelf(rng):
    """Open shelf with rows of books and boxes."""
    deep, wide, high = rng.uniform(0.22, 0.4), rng.uniform(0.5, 1.6), rng.uniform(0.8, 2.2)
    look, count = _wood(rng), int(rng.integers(2, 6))
    parts = [box((0, s * (wide / 2 - 0.01), high / 2), (deep, 0.02, high), look) for s in (-1, 1)]
    parts.append(box((-deep / 2 + 0.005, 0, high / 2), (0.01, wide, high), look))
    step = high / count
    for i in range(count + 1):
        parts.append(box((0, 0, min(i * step + 0.01, high - 0.01)), (deep, wide, 0.02), look))
    for i in range(count):
        if rng.random() < 0.8:
            tall, broad = step * rng.uniform(0.4, 0.9), wide * rng.uniform(0.3, 0.95)
            books = sample_material(rng, ("books", "books", "books", "photo", "text"), saturation=VIVID, photo_m=0.5)
            shift = 0.5 * (wide - 0.04 - broad) * rng.uniform(-1, 1)
            parts.append(box((-0.01, shift, i * step + 0.02 + tall / 2), (deep * 0.75, broad, tall), books))
    return thing(parts, "shelf", "shelf", look, deep=deep, wide=wide, high=high, top=high if high < 1.3 else 0)


def sofa(rng):
    deep, wide, high = rng.uniform(0.75, 1.0), rng.uniform(0.8, 2.2), rng.uniform(0.35, 0.48)
    look = sample_material(rng, FABRICS, scale=0.5)
    parts = [box((0, 0, high / 2 + 0.04), (deep, wide, high - 0.08), look)]
    parts.append(box((0.11 - deep / 2, 0, 0.42), (0.2, wide, 0.8), look, rotation_y(np.float64(-rng.uniform(0, 0.2)))))
    if rng.random() < 0.75:
        parts += [box((0, s * (wide / 2 - 0.08), 0.32), (deep, 0.16, 0.56), look) for s in (-1, 1)]
    for _ in range(rng.integers(0, 3)):
        pillow = sample_material(rng, FABRICS, saturation=VIVID, scale=0.3)
        spot = (0.3 - deep / 2, rng.uniform(-0.3, 0.3) * wide, high + 0.16)
        parts.append(ball(spot, (0.22, 0.22, 0.09), pillow, rotation_y(np.float64(-1.2))))
    return thing(parts, "sofa", "sofa", look, deep=deep, wide=wide, high=0.82, top=0.0)


def bed(rng):
    deep, wide = rng.uniform(1.9, 2.1), rng.uniform(0.8, 1.8)
    cover, wood = sample_material(rng, FABRICS, scale=0.6), _wood(rng)
    parts = [box((0, 0, 0.16), (deep, wide, 0.2), wood), box((0, 0, 0.38), (deep - 0.06, wide - 0.06, 0.24), cover)]
    parts.append(box((-deep / 2, 0, 0.5), (0.06, wide, 1.0), wood))
    white = sample_material(rng, ("plain", "fabric"), brightness=(0.6, 0.95), saturation=(0, 0.2))
    parts.append(ball((0.3 - deep / 2, 0, 0.54), (0.22, 0.4 * wide, 0.09), white))
    return thing(parts, "bed", "bed", cover, deep=deep, wide=wide, high=1.0)


def chair(rng):
    look, leg = sample_material(rng, (*WOODS, "fabric")), _metal(rng)
    seat, lean, style = rng.uniform(0.42, 0.5), rng.uniform(0.0, 0.25), rng.random()
    wide = rng.uniform(0.38, 0.52)
    tall = rng.uniform(0.3, 0.55)
    back = rotation_y(np.float64(-lean))
    parts = [box((0, 0, seat), (wide, wide, 0.05), look)]
    parts.append(
        box(np.array([-0.45 * wide, 0, seat + 0.05]) + back @ [0, 0, tall / 2], (0.04, wide, tall), look, back)
    )
    if style < 0.4:  # one foot with a star
        parts.append(upright(0, 0, 0.08, seat, 0.03, leg))
        parts += [box((0, 0, 0.05), (0.55, 0.05, 0.04), leg, rotation_z(np.float64(a))) for a in (0, 1.05, 2.09)]
    elif style < 0.75:
        for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            parts.append(rod((x * 0.4 * wide, y * 0.4 * wide, seat), (x * 0.48 * wide, y * 0.48 * wide, 0), 0.015, leg))
    else:  # cantilever
        for side in (-0.45 * wide, 0.45 * wide):
            parts += [rod((0.4 * wide, side, 0.02), (0.4 * wide, side, seat), 0.013, leg)]
            parts += [rod((-0.4 * wide, side, 0.02), (0.4 * wide, side, 0.02), 0.013, leg)]
    return thing(parts, "chair", "chair", look, deep=0.5, wide=0.5, high=seat + tall, radius=0.32)


def stool(rng):
    seat, radius = rng.uniform(0.4, 0.75), rng.uniform(0.15, 0.22)
    look = _wood(rng)
    parts = [upright(0, 0, seat - 0.05, seat, radius, look), upright(0, 0, 0, seat, 0.03, look)]
    parts.append(upright(0, 0, 0, 0.04, radius, look))
    return thing(parts, "stool", "chair", look, deep=2 * radius, high=seat, radius=radius)


def crate(rng, low=0.1, high=0.8):
    size = [_size(rng, low, high) for _ in range(3)]
    look = _small_look(rng, max(size))
    parts = [box((0, 0, size[2] / 2), size, look)]
    if size[2] > 0.15 and rng.random() < 0.25:  # a lid, or a box in two colours
        parts.append(box((0, 0, size[2] + 0.01), (size[0] * 1.04, size[1] * 1.04, 0.03), _small_look(rng, max(size))))
    return thing(parts, "box", "crate", look, deep=size[0], wide=size[1], high=size[2])


def sphere(rng, low=0.03, high=0.35):
    radius = _size(rng, low, high)
    look = _small_look(rng, 2 * radius)
    return thing(
        [ball((0, 0, radius), (radius,) * 3, look)],
        "ball",
        "ball",
        look,
        deep=2 * radius,
        high=2 * radius,
        radius=radius,
    )


def drum(rng, low=0.03, high=0.3):
    radius = _size(rng, low, high)
    tall, look = radius * rng.uniform(1.0, 5.0), _small_look(rng, 2 * radius)
    shape = (CYLINDER, CYLINDER, barrel(rng.uniform(0.1, 0.6)), tapered(1.0, rng.uniform(0.5, 0.9)))[rng.integers(4)]
    parts = [upright(0, 0, 0, tall, radius, look, shape)]
    return thing(parts, "drum", "drum", look, deep=2 * radius, high=tall, radius=radius)


def vessel(rng, low=0.03, high=0.12):
    """Bottle, mug, vase or bowl: a lathe of two or three bodies."""
    radius, style = _size(rng, low, high), int(rng.integers(4))
    tall, look = radius * rng.uniform(1.6, 5.0), _small_look(rng, 3 * radius)
    kind, make = (("bottle", _bottle), ("mug", _mug), ("vase", _vase), ("bowl", _bowl))[style]
    parts, radius, tall = make(rng, radius, tall, look)
    return thing(parts, kind, "vessel", look, deep=2 * radius, high=tall, radius=radius)


def _bottle(rng, radius, tall, look):
    neck = radius * rng.uniform(0.25, 0.45)
    parts = [
        upright(0, 0, 0, 0.6 * tall, radius, look),
        upright(0, 0, 0.6 * tall, 0.78 * tall, radius, look, tapered(radius, neck)),
        upright(0, 0, 0.78 * tall, tall, neck, look),
    ]
    return parts, radius, tall


def _mug(rng, radius, tall, look):
    tall = radius * rng.uniform(1.6, 2.6)
    body = upright(0, 0, 0, tall, radius, look, tapered(rng.uniform(0.7, 1.0), 1.0))
    coffee = sample_material(rng, ("plain",), brightness=(0.02, 0.3))
    surface = upright(0, 0, tall - 0.004, tall + 0.001, 0.9 * radius, coffee)
    handle = box((0, 1.25 * radius, tall / 2), (0.25 * radius, 0.5 * radius, 0.6 * tall), look)
    return [body, surface, handle], radius, tall


def _vase(rng, radius, tall, look):
    belly = upright(0, 0, 0, 0.7 * tall, radius, look, barrel(rng.uniform(0.3, 0.8)))
    neck = upright(0, 0, 0.66 * tall, tall, 0.7 * radius, look, waisted(rng.uniform(0.2, 0.6)))
    return [belly, neck], radius, tall


def _bowl(rng, radius, tall, look):
    radius = 1.6 * radius
    tall = radius * rng.uniform(0.5, 0.9)
    fruit, places = _small_look(rng, radius), ((0.35, 0.1), (-0.3, 0.25), (0, -0.4))
    parts = [upright(0, 0, 0, tall, radius, look, BOWL)]
    parts += [ball((radius * a, radius * b, tall), (0.33 * radius,) * 3, fruit) for a, b in places]
    return parts, radius, tall


def book(rng):
    size = (rng.uniform(0.15, 0.3), rng.uniform(0.11, 0.24), rng.uniform(0.01, 0.05))
    look = sample_material(
        rng, ("photo", "photo", "text", "plain", "patches"), saturation=VIVID, scale=0.3, photo_m=0.25
    )
    return thing([box((0, 0, size[2] / 2), size, look)], "book", "book", look, deep=size[0], wide=size[1], high=size[2])


def toy(rng, low=0.08, high=0.4):
    """A random compound: one of endlessly many kinds."""
    size, looks = _size(rng, low, high), [_small_look(rng, 0.3) for _ in range(2)]
    parts, level = [], 0.0
    for _ in range(rng.integers(2, 5)):
        half = 0.5 * size * rng.uniform(0.25, 1.0, size=3)
        look, choice = looks[rng.integers(2)], rng.random()
        side = rng.uniform(-0.25, 0.25, size=2) * size * (level > 0)
        if choice < 0.4:
            parts.append(box((*side, level + half[2]), 2 * half, look, rotation_z(rng.uniform(0, 3))))
        elif choice < 0.6:
            parts.append(ball((*side, level + half[2]), tuple(half), look))
        elif choice < 0.9:
            shape = (CYLINDER, tapered(1.0, rng.uniform(0.05, 0.8)), tapered(0.4, 1.0), barrel(0.5), waisted(0.5))[
                rng.integers(5)
            ]
            parts.append(upright(side[0], side[1], level, level + 2 * half[2], half[0], look, shape))
        else:
            axes = tilted(rng, 1.5)
            parts.append(box((*side, level + half.max()), 2 * half * [0.3, 0.5, 1.0], look, axes))
        level += 1.6 * half[2]
    return thing(parts, "toy", "toy", looks[0], deep=size, high=level, radius=0.6 * size)


def plant(rng):
    """Leaves of flat ellipsoids over a pot."""
    size = rng.uniform(0.35, 1.7)
    pot, wide = sample_material(rng, ("plain", "plain", "stripes", "marble")), min(0.22, 0.25 * size)
    green = sample_material(
        rng,
        ("plain", "marble", "stripes"),
        red=rng.uniform(0.01, 0.15),
        green=rng.uniform(0.06, 0.35),
        blue=rng.uniform(0.01, 0.1),
        red2=0.05,
        green2=0.1,
        blue2=0.02,
        scale=0.2,
    )
    low = 0.3 * size
    parts = [upright(0, 0, 0, low, wide, pot, tapered(rng.uniform(0.6, 1.0), 1.0)), *_leaves(rng, size, low, green)]
    return thing(parts, "plant", "plant", green, deep=0.8 * size, high=1.1 * size, radius=max(0.3 * size, wide))


def _leaves(rng, size, low, green):
    """Around the upright axis, from ``low`` upwards, each at the golden angle to the one before."""
    long, thin = 0.4 * size, rng.uniform(0.1, 0.4)
    stem = rng.uniform(0.0, 0.3) * size
    leaves = []
    for i in range(rng.integers(5, 11)):
        axes = rotation_z(np.float64(2.4 * i + rng.uniform(-0.4, 0.4))) @ rotation_y(np.float64(rng.uniform(0.2, 1.5)))
        reach = long * rng.uniform(0.6, 1.1)
        middle_3 = np.array([0, 0, low + stem * rng.random()]) + axes @ [0, 0, reach]
        leaves.append(ball(middle_3, (0.012, thin * reach, reach), green, axes))
    return leaves


def floor_lamp(rng):
    high, metal = rng.uniform(1.2, 1.8), _metal(rng)
    shade = sample_material(
        rng, ("plain",), brightness=(0.7, 0.95), saturation=(0, 0.4), emission=rng.uniform(0.3, 2.0)
    )
    parts = [upright(0, 0, 0, high, 0.015, metal), upright(0, 0, 0, 0.03, 0.14, metal)]
    parts.append(upright(0, 0, high - 0.25, high, 0.2, shade, tapered(1.0, rng.uniform(0.4, 1.0))))
    return thing(parts, "lamp", "lamp", shade, deep=0.4, high=high, radius=0.2)


def person(rng):
    """A person-sized figure: legs, trunk, arms, head."""
    tall = rng.uniform(1.5, 1.9)
    hip, neck, half = 0.48 * tall, 0.82 * tall, rng.uniform(0.14, 0.2)
    shirt, trousers = (sample_material(rng, FABRICS, saturation=VIVID, scale=0.4) for _ in range(2))
    tone = rng.uniform(0.15, 0.75)
    skin = sample_material(rng, ("plain",), red=tone, green=0.7 * tone, blue=0.55 * tone)
    stride = rng.uniform(-0.2, 0.2)
    parts = [rod((stride * s, 0.09 * s, 0), (0, 0.09 * s, hip), 0.08, trousers) for s in (-1, 1)]
    parts.append(upright(0, 0, hip - 0.05, neck, half, shirt, barrel(0.4)))
    parts += [
        rod((0, s * (half + 0.02), neck - 0.05), (-0.7 * stride * s, s * (half + 0.08), hip), 0.05, shirt)
        for s in (-1, 1)
    ]
    parts.append(ball((0, 0, neck + 0.12), (0.1, 0.09, 0.13), skin))
    return thing(parts, "person", "person", shirt, deep=0.4, wide=0.6, high=tall, radius=0.3)


def picture(rng):
    """On a wall; its base point is its lower edge on the wall."""
    wide, high = rng.uniform(0.25, 1.6), rng.uniform(0.25, 1.2)
    look = sample_material(rng, PICTURES, saturation=(0.0, 0.9), scale=rng.uniform(0.2, 0.8), photo_m=max(wide, high))
    parts = [box((0.015, 0, high / 2), (0.03, wide, high), look)]
    if rng.random() < 0.4:
        parts.insert(0, box((0.01, 0, high / 2), (0.02, wide + 0.08, high + 0.08), _wood(rng)))
    return thing(parts, "picture", "picture", None, deep=0.03, wide=wide, high=high, radius=wide / 2)


def window(rng):
    """Bright outside, a frame and a bar."""
    wide, high = rng.uniform(0.7, 2.2), rng.uniform(0.8, 1.6)
    view = sample_material(
        rng,
        ("photo", "gradient", "plain", "facade"),
        brightness=(0.5, 1.0),
        saturation=(0, 0.5),
        photo_m=max(wide, high) * rng.uniform(1, 1.6),
        emission=rng.uniform(0.8, 4.0),
    )
    frame = sample_material(rng, ("plain", "wood"), brightness=(0.2, 0.95), saturation=(0, 0.3))
    parts = [box((0.01, 0, high / 2), (0.02, wide, high), view)]
    parts += [box((0.02, 0, z), (0.05, wide + 0.1, 0.06), frame) for z in (0, high)]
    parts += [box((0.02, y, high / 2), (0.05, 0.06, high), frame) for y in (-wide / 2, 0, wide / 2)]
    return thing(parts, "window", "window", None, deep=0.05, wide=wide, high=high, radius=wide / 2)


def door(rng):
    wide, high = rng.uniform(0.75, 1.1), rng.uniform(1.95, 2.15)
    look = sample_material(rng, ("plain", "plain", "wood"), brightness=(0.02, 0.9))
    frame = sample_material(rng, ("plain", "wood"), brightness=(0.02, 0.9), saturation=(0, 0.3))
    parts = [box((0.015, 0, high / 2), (0.03, wide, high), look)]
    parts += [box((0.02, s * (wide / 2 + 0.03), high / 2), (0.05, 0.06, high + 0.06), frame) for s in (-1, 1)]
    parts.append(box((0.02, 0, high + 0.03), (0.05, wide + 0.12, 0.06), frame))
    parts.append(box((0.05, 0.4 * wide, 1.02), (0.04, 0.12, 0.03), _metal(rng)))
    return thing(parts, "door", "door", look, deep=0.05, wide=wide, high=high, radius=wide / 2 + 0.06)


def radiator(rng):
    wide, high = rng.uniform(0.5, 1.4), rng.uniform(0.4, 0.7)
    white = sample_material(rng, ("stripes",), brightness=(0.6, 0.95), saturation=(0, 0.1), cell_u_m=0.06, checker=0.4)
    return thing(
        [box((0.06, 0, 0.1 + high / 2), (0.1, wide, high), white)],
        "radiator",
        "unknown",
        white,
        deep=0.12,
        wide=wide,
        high=high + 0.1,
    )


def ceiling_lamp(rng):
    """Its base point is where it touches the ceiling; it hangs below."""
    glow = sample_material(rng, ("plain",), brightness=(0.9, 1.0), saturation=(0, 0.2), emission=rng.uniform(1.5, 4))
    drop = rng.uniform(0.0, 0.6) if rng.random() < 0.4 else 0.0
    if rng.random() < 0.5:
        parts = [box((0, 0, -0.03 - drop), (rng.uniform(0.1, 0.6), rng.uniform(0.4, 1.3), 0.05), glow)]
    else:
        parts = [
            upright(
                0,
                0,
                -0.14 - drop,
                -0.02 - drop,
                rng.uniform(0.08, 0.25),
                glow,
                (BALL, CYLINDER, tapered(1, 0.3))[rng.integers(3)],
            )
        ]
    if drop:
        parts.append(upright(0, 0, -drop, 0, 0.008, _metal(rng)))
    return thing(parts, "ceiling lamp", "lamp", None, deep=0.4, high=0.1)


def rug(rng):
    size = (rng.uniform(0.8, 2.2), rng.uniform(1.0, 3.2), 0.012)
    look = sample_material(rng, (*FABRICS, "tiles", "patches"), saturation=VIVID, photo_m=rng.uniform(0.5, 2.5))
    return thing([box((0, 0, 0.006), size, look)], "rug", "rug", look, deep=size[0], wide=size[1], high=0.012)


def zone(rng, deep, wide):
    """Another floor: carpet beside wood."""
    look = sample_material(rng, FLOORS, saturation=VIVID)
    return thing(
        [box((0, 0, 0.003), (deep, wide, 0.006), look)], "floor", "floor", look, deep=deep, wide=wide, high=0.01
    )


def pillar(rng, high):
    wide, look = rng.uniform(0.2, 0.6), sample_material(rng, WALLS)
    parts = [box((0, 0, high / 2), (wide, wide, high), look)]
    if rng.random() < 0.4:
        parts = [upright(0, 0, 0, high, wide / 2, look)]
    return thing(parts, "pillar", "pillar", look, deep=wide, high=high)


def robot_arm(rng, times_s, speed, size=1.0):
    """A chain of links with a gripper on a pedestal, moving: parts carry their own track."""
    links = size * rng.uniform(0.16, 0.42, size=rng.integers(2, 5))
    look, joint = (sample_material(rng, ("plain",), brightness=(0.1, 0.95), saturation=VIVID) for _ in range(2))
    radius = size * rng.uniform(0.03, 0.06)
    point_T3 = np.tile([0.0, 0.0, size * rng.uniform(0.1, 0.3)], (len(times_s), 1))
    parts = [upright(0, 0, 0, point_T3[0, 2], 1.6 * radius, joint)]
    turn_T = _sway(rng, times_s, speed, 1.2)
    bend_T = rng.uniform(-0.2, 0.6) + _sway(rng, times_s, speed, 0.4)
    for i, length in enumerate(links):
        along_T3 = np.stack([np.sin(bend_T) * np.cos(turn_T), np.sin(bend_T) * np.sin(turn_T), np.cos(bend_T)], -1)
        parts.append(ball(point_T3, (1.3 * radius,) * 3, joint))
        parts.append(rod(point_T3, point_T3 + length * along_T3, radius * 0.85**i, look))
        point_T3 = point_T3 + length * along_T3
        bend_T = bend_T + rng.uniform(0.3, 1.1) + _sway(rng, times_s, speed, 0.4)
    parts += _gripper(rng, times_s, speed, size, point_T3, parts[-1].axes, joint)
    reach = float(links.sum())
    return thing(parts, "robot arm", "robot", look, deep=4 * radius, high=reach, radius=0.15 * size)


def _gripper(rng, times_s, speed, size, point_T3, axes_T33, look):
    """A palm and two fingers that open and close, at the end of an arm."""
    ahead_T3, aside_T3 = axes_T33[..., 2], axes_T33[..., 1]
    parts = [box(point_T3 + 0.03 * size * ahead_T3, (0.05 * size, 0.14 * size, 0.03 * size), look, axes_T33)]
    opening_T = size * (0.045 + 0.02 * np.clip(_sway(rng, times_s, 2 * speed, 1.0), -1, 1))
    for side in (-1, 1):
        tip_T3 = point_T3 + 0.08 * size * ahead_T3 + side * opening_T[:, None] * aside_T3
        parts.append(box(tip_T3, (0.03 * size, 0.015 * size, 0.09 * size), look, axes_T33))
    return parts


def _sway(rng, times_s, speed, most_rad):
    rate_hz, phase = rng.uniform(0.1, 0.4), rng.uniform(0, 2 * np.pi)
    return most_rad * rng.random() * np.sin(2 * np.pi * rate_hz * speed * times_s + phase)


def fingers(rng):
    """A gripper as its own wrist camera sees it: base point is the camera, axes those of the camera."""
    look = sample_material(rng, ("plain", "plain", "stripes"), scale=0.1)
    gap, low, reach = rng.uniform(0.03, 0.06), rng.uniform(0.035, 0.06), rng.uniform(0.12, 0.2)
    parts = [box((s * gap, low, reach), (0.02, 0.02, 0.1), look) for s in (-1, 1)]
    parts.append(box((0, low + 0.015, reach - 0.06), (2.4 * gap + 0.03, 0.03, 0.03), look))
    return thing(parts, "gripper", "robot", look, deep=0.1, high=0.1)


def tree(rng):
    tall = rng.uniform(2.5, 9)
    bark = sample_material(rng, ("wood", "marble"), red=0.12, green=0.08, blue=0.05)
    green = sample_material(
        rng,
        ("marble", "fabric"),
        red=rng.uniform(0.03, 0.25),
        green=rng.uniform(0.1, 0.3),
        blue=0.04,
        red2=0.01,
        green2=0.04,
        blue2=0.01,
        noise_blend=0.9,
    )
    crown = (_fir if rng.random() < 0.3 else _round_crown)(rng, tall, green)
    parts = [upright(0, 0, 0, 0.6 * tall, 0.03 * tall, bark, tapered(1.0, 0.6)), *crown]
    return thing(parts, "tree", "tree", green, deep=0.4 * tall, high=tall, radius=0.06 * tall + 0.3)


def _fir(rng, tall, green):
    """Three cones, one above the other."""
    spans = ((0.2 + 0.25 * i, 0.55 + 0.25 * i, 0.25 - 0.06 * i) for i in range(3))
    return [upright(0, 0, a * tall, b * tall, r * tall, green, tapered(1, 0.03)) for a, b, r in spans]


def _round_crown(rng, tall, green):
    crown = []
    for _ in range(rng.integers(2, 5)):
        half = tall * rng.uniform(0.12, 0.25, size=3)
        middle = (*rng.uniform(-0.15, 0.15, size=2) * tall, tall * rng.uniform(0.55, 0.85))
        crown.append(ball(middle, tuple(half), green))
    return crown


def post(rng):
    tall, metal = rng.uniform(1.0, 6.0), _metal(rng)
    parts = [upright(0, 0, 0, tall, rng.uniform(0.03, 0.1), metal)]
    style = rng.random()
    if style < 0.4:
        sign = sample_material(rng, ("text", "photo", "stripes", "plain"), saturation=VIVID, scale=0.5, photo_m=0.7)
        parts.append(box((0.05, 0, tall - 0.3), (0.04, rng.uniform(0.4, 1.2), rng.uniform(0.4, 0.8)), sign))
    elif style < 0.7:
        parts.append(
            ball((0, 0, tall), (0.2, 0.2, 0.2), sample_material(rng, ("plain",), brightness=(0.8, 1.0), emission=1.0))
        )
    return thing(parts, "post", "post", metal, deep=0.2, high=tall, radius=0.2)


def building(rng):
    size = rng.uniform((4, 4, 3), (16, 16, 14))
    look = sample_material(rng, ("facade", "facade", "bricks", "photo", "planks"), photo_m=rng.uniform(3, 9))
    parts = [box((0, 0, size[2] / 2), size, look)]
    if rng.random() < 0.5:
        roof = sample_material(rng, ("tiles", "plain", "stripes"), brightness=(0.05, 0.5))
        parts.append(box((0, 0, size[2] + 0.2), (size[0] + 0.6, size[1] + 0.6, 0.5), roof))
    if rng.random() < 0.4:
        parts.append(box((0, 0, size[2] + 1), (0.4 * size[0], 0.4 * size[1], 2.5), look))
    return thing(parts, "building", "building", look, deep=size[0], wide=size[1], high=size[2])


def vehicle(rng):
    long, wide, high = rng.uniform(3.2, 5.2), rng.uniform(1.6, 2.0), rng.uniform(1.3, 2.2)
    look = sample_material(
        rng, ("plain", "plain", "plain", "stripes", "photo"), saturation=VIVID, specular=0.6, polish=60.0
    )
    glass = sample_material(rng, ("plain",), brightness=(0.02, 0.2), specular=0.9, polish=60.0)
    black = sample_material(rng, ("plain",), brightness=(0.02, 0.15))
    body = rng.uniform(0.5, 0.65) * high
    parts = [box((0, 0, 0.25 + body / 2), (long, wide, body), look)]
    parts.append(box((-0.1 * long, 0, 0.25 + body + 0.2 * high), (0.55 * long, 0.9 * wide, 0.4 * high), glass))
    for x, y in ((-0.3, -0.5), (-0.3, 0.5), (0.3, -0.5), (0.3, 0.5)):
        a = np.array([x * long, y * wide - 0.1, 0.32])
        parts.append(rod(a, a + [0, 0.2, 0], 0.32, black))
    return thing(parts, "car", "vehicle", look, deep=long, wide=wide, high=high, radius=long / 2)


def hill(rng):
    wide = rng.uniform(6, 30)
    look = sample_material(
        rng,
        ("marble", "fabric", "photo"),
        red=rng.uniform(0.05, 0.3),
        green=rng.uniform(0.08, 0.3),
        blue=0.05,
        photo_m=4,
    )
    return thing(
        [ball((0, 0, -0.1), (wide, wide * rng.uniform(0.5, 1), rng.uniform(0.5, 4)), look, EYE)],
        "hill",
        "ground",
        look,
        deep=2 * wide,
        high=2.0,
        radius=wide,
    )


def low_wall(rng):
    wide, high = rng.uniform(2, 9), rng.uniform(0.5, 2.2)
    look = sample_material(rng, WALLS + ("bricks", "planks"))
    return thing([box((0, 0, high / 2), (0.2, wide, high), look)], "wall", "wall", look, deep=0.2, wide=wide, high=high)


CLUTTER = (crate, crate, sphere, drum, vessel, vessel, book, toy, toy, laptop, screen)
TABLETOP = (crate, sphere, drum, vessel, vessel, book, toy, toy)
