"""Sampling of surface materials: one row of numbers each, so that every pixel runs the same code. numpy only.

Families: plain, marble, tiles, planks, wood, bricks, stripes, dots, patches, books, fabric, text, gradient, facade and
photo. A material may mix them: a photograph tinted by a colour, text on a gradient.
"""

import numpy as np

FIELDS = (
    "red",
    "green",
    "blue",
    "red2",
    "green2",
    "blue2",
    "cell_u_m",
    "cell_v_m",
    "row_shift",
    "grout_m",
    "grout_gain",
    "cell_variation",
    "checker",
    "patch",
    "dot",
    "noise_amp",
    "noise_blend",
    "noise_u_per_m",
    "noise_v_per_m",
    "gradient",
    "gradient_m",
    "glyph",
    "glyph_m",
    "photo",
    "photo_m",
    "photo_blend",
    "specular",
    "polish",
    "emission",
    "unlit",
    "seed",
)
INDEX = {name: i for i, name in enumerate(FIELDS)}
SMALL = (
    "plain",
    "plain",
    "marble",
    "stripes",
    "dots",
    "patches",
    "wood",
    "tiles",
    "text",
    "gradient",
    "photo",
    "photo",
    "fabric",
)
WALLS = (
    "plain",
    "plain",
    "plain",
    "plain",
    "marble",
    "bricks",
    "stripes",
    "tiles",
    "patches",
    "dots",
    "photo",
    "photo",
    "gradient",
    "planks",
)
FLOORS = ("planks", "planks", "planks", "tiles", "tiles", "marble", "plain", "patches", "fabric", "fabric", "photo")
FABRICS = ("plain", "fabric", "fabric", "marble", "stripes", "dots", "photo")
WOODS = ("wood", "wood", "plain", "plain", "photo")
PICTURES = ("photo", "photo", "photo", "photo", "text", "patches", "marble", "gradient")


def sample_colour(rng, brightness=(0.15, 0.85), saturation=(0.0, 0.6)):
    """Linear RGB albedo of a random hue."""
    hue, sat, val = rng.random() * 6, _between(rng, saturation) ** 1.3, _between(rng, brightness)
    wheel = [abs((hue + shift) % 6 - 3) - 1 for shift in (0.0, 4.0, 2.0)]
    return [val**1.6 * (1 - sat * (1 - min(max(part, 0.0), 1.0))) for part in wheel]


def _between(rng, span):
    return span[0] + (span[1] - span[0]) * rng.random()


def sample_material(rng, families, *, brightness=(0.08, 0.9), saturation=(0.0, 0.7), scale=1.0, **fixed):
    """Row of material numbers. scale shrinks patterns for small things (1 = architectural size); fixed: fields that
    are set to a value."""
    row = dict.fromkeys(FIELDS, 0.0)
    first, second = (sample_colour(rng, brightness, saturation) for _ in range(2))
    row.update(zip(FIELDS[:6], (*first, *second), strict=True))
    row.update(cell_u_m=1e3, cell_v_m=1e3, grout_gain=1.0, noise_u_per_m=4.0, noise_v_per_m=4.0, gradient_m=1.0)
    row.update(glyph_m=1.0, photo_m=1.0, polish=16.0, noise_amp=0.02 + 0.1 * rng.random())
    row.update(photo=float(rng.integers(1 << 20)), seed=float(rng.integers(1, 1 << 20)))
    if rng.random() < 0.35:
        row.update(specular=_between(rng, (0.1, 0.8)), polish=float(rng.choice((6.0, 16.0, 60.0))))
    row.update(_FAMILIES[families[rng.integers(len(families))]](rng))
    for name in ("cell_u_m", "cell_v_m", "grout_m", "gradient_m", "glyph_m", "photo_m"):
        row[name] *= scale
    for name in ("noise_u_per_m", "noise_v_per_m"):
        row[name] /= scale
    row.update(fixed)
    return np.array(list(row.values()), np.float32)


def mean_colour(row):
    """Linear RGB that stands for a material; a photograph has none of its own, so its tint."""
    mix = 0.5 * (row[INDEX["checker"]] + row[INDEX["patch"]] + row[INDEX["noise_blend"]])
    return row[:3] + (row[3:6] - row[:3]) * min(mix, 0.5)


def _plain(rng):
    frequency = _between(rng, (2, 12))
    return dict(noise_u_per_m=frequency, noise_v_per_m=frequency, noise_amp=0.08 * rng.random())


def _marble(rng):
    frequency = _between(rng, (0.5, 8))
    stretch = _between(rng, (1, 4)) if rng.random() < 0.4 else 1.0
    return dict(noise_u_per_m=frequency, noise_v_per_m=frequency * stretch, noise_blend=_between(rng, (0.4, 1.0)))


def _tiles(rng):
    size = _between(rng, (0.2, 0.6))
    look = dict(cell_u_m=size, cell_v_m=size * rng.choice([1.0, 1.0, 0.5]), grout_m=_between(rng, (0.003, 0.01)))
    look.update(grout_gain=rng.choice([0.4, 0.6, 1.5]), cell_variation=_between(rng, (0.02, 0.2)))
    look["checker"] = _between(rng, (0.3, 1)) if rng.random() < 0.4 else 0.0
    return look


def _planks(rng):
    look = dict(cell_u_m=_between(rng, (0.8, 2)), cell_v_m=_between(rng, (0.08, 0.2)))
    look.update(grout_m=_between(rng, (0.002, 0.005)), grout_gain=0.4, row_shift=0.37)
    look.update(cell_variation=_between(rng, (0.08, 0.3)), **_wood(rng))
    return look


def _wood(rng):
    tone = _between(rng, (0.1, 0.85)) * np.array([1.0, _between(rng, (0.5, 0.8)), _between(rng, (0.15, 0.55))])
    look = dict(zip(FIELDS[:6], (*tone, *(tone * _between(rng, (0.5, 0.8)))), strict=True))
    look.update(noise_u_per_m=_between(rng, (1, 3)), noise_v_per_m=_between(rng, (15, 40)))
    look.update(noise_amp=_between(rng, (0.1, 0.3)), noise_blend=_between(rng, (0, 0.5)))
    if rng.random() < 0.5:
        look.update(specular=_between(rng, (0.1, 0.7)), polish=float(rng.choice((8.0, 20.0, 60.0))))
    return look


def _bricks(rng):
    width = _between(rng, (0.2, 0.4))
    look = dict(cell_u_m=width, cell_v_m=width * 0.35, row_shift=0.5, grout_m=_between(rng, (0.005, 0.012)))
    look.update(grout_gain=rng.choice([0.5, 1.8]), cell_variation=_between(rng, (0.1, 0.4)), noise_u_per_m=12.0)
    return look


def _stripes(rng):
    size = _between(rng, (0.03, 0.4))
    side = "cell_u_m" if rng.random() < 0.5 else "cell_v_m"
    return {side: size, "checker": _between(rng, (0.3, 1.0))}


def _dots(rng):
    size = _between(rng, (0.08, 0.4))
    return dict(cell_u_m=size, cell_v_m=size, dot=_between(rng, (0.15, 0.42)), row_shift=rng.choice([0.0, 0.5]))


def _patches(rng):
    wide, high = _between(rng, (0.2, 1.2)), _between(rng, (0.2, 1.2))
    return dict(cell_u_m=wide, cell_v_m=high, patch=1.0, cell_variation=_between(rng, (0.1, 0.6)), row_shift=0.29)


def _books(rng):
    return dict(
        cell_u_m=_between(rng, (0.03, 0.07)),
        cell_v_m=_between(rng, (0.25, 0.4)),
        patch=1.0,
        cell_variation=0.7,
        grout_m=0.004,
        grout_gain=0.2,
    )


def _fabric(rng):
    """Speckled carpet and weave."""
    frequency = _between(rng, (15, 60))
    weave = dict(cell_u_m=_between(rng, (0.01, 0.04)), checker=_between(rng, (0.1, 0.5))) if rng.random() < 0.5 else {}
    return dict(
        noise_u_per_m=frequency,
        noise_v_per_m=frequency * rng.choice([0.3, 1.0, 1.0]),
        specular=0.0,
        noise_amp=_between(rng, (0.2, 0.6)),
        noise_blend=_between(rng, (0.0, 0.6)),
        **weave,
    )


def _text(rng):
    ink = _between(rng, (0.5, 1.0))
    look = dict(glyph=ink, glyph_m=_between(rng, (0.02, 0.12)))
    if rng.random() < 0.6:  # dark on light
        look.update(red=0.85, green=0.85, blue=_between(rng, (0.6, 0.85)), red2=0.05, green2=0.05, blue2=0.05)
    return look | (_gradient(rng) if rng.random() < 0.2 else {})


def _gradient(rng):
    return dict(gradient=_between(rng, (0.4, 1.0)), gradient_m=_between(rng, (0.3, 3.0)))


def _facade(rng):
    """Windows in a wall."""
    look = dict(cell_u_m=_between(rng, (1.2, 4)), cell_v_m=_between(rng, (2.2, 3.6)), cell_variation=0.3)
    dark = 0.25 * rng.random()
    return look | dict(
        grout_m=_between(rng, (0.3, 0.7)),
        grout_gain=_between(rng, (1.5, 6)),
        red=dark + 0.05,
        green=dark + 0.06,
        blue=dark + 0.08,
        patch=0.3 * rng.random(),
    )


def _photo(rng):
    """A photograph over a tint that shows where no photographs are loaded."""
    base = _marble(rng) if rng.random() < 0.5 else _patches(rng)
    return base | dict(photo_m=_between(rng, (0.4, 2.5)), photo_blend=1.0 if rng.random() < 0.8 else 0.6)


_FAMILIES = dict(
    plain=_plain,
    marble=_marble,
    tiles=_tiles,
    planks=_planks,
    wood=_wood,
    bricks=_bricks,
    stripes=_stripes,
    dots=_dots,
    patches=_patches,
    books=_books,
    fabric=_fabric,
    text=_text,
    gradient=_gradient,
    facade=_facade,
    photo=_photo,
)
