"""Surface materials: one continuous family covers tiles, bricks, planks, stripes, dots, patches and marble.

A material is a row of numbers, so every pixel runs the same code whatever it shows.
Coordinates are metres on the object's own surface, so a texture moves with its object.

Shapes: N any shape of pixels, M material numbers.
"""

import numpy as np
import torch

FIELDS = (
    "red", "green", "blue", "red2", "green2", "blue2", "cell_u_m", "cell_v_m", "row_shift", "grout_m",
    "grout_gain", "cell_variation", "checker", "patch", "dot", "noise_amp", "noise_blend", "noise_u_per_m",
    "noise_v_per_m", "specular", "emission", "seed",
)  # fmt: skip
INDEX = {name: i for i, name in enumerate(FIELDS)}


def sample_colour(rng, brightness=(0.15, 0.85), saturation=(0.0, 0.6)):
    """Linear RGB albedo of a random hue."""
    hue, sat, val = rng.uniform(0, 6), rng.uniform(*saturation) ** 1.3, rng.uniform(*brightness)
    rgb = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return val**1.6 * (1 - sat * (1 - rgb))


def sample_material(rng, families, *, brightness=(0.15, 0.85), saturation=(0.0, 0.6), scale=1.0, emission=0.0):
    """Row of material numbers. scale shrinks patterns for small things (1 = architectural size)."""
    row = dict.fromkeys(FIELDS, 0.0)
    first, second = (sample_colour(rng, brightness, saturation) for _ in range(2))
    row.update(zip(FIELDS[:6], (*first, *second), strict=True))
    row.update(cell_u_m=1e3, cell_v_m=1e3, grout_gain=1.0, noise_u_per_m=4.0, noise_v_per_m=4.0)
    row.update(noise_amp=rng.uniform(0.02, 0.12), emission=emission, seed=float(rng.integers(1, 1 << 20)))
    row["specular"] = rng.uniform(0.1, 0.6) if rng.random() < 0.3 else 0.0
    row.update(_FAMILIES[families[rng.integers(len(families))]](rng))
    for name in ("cell_u_m", "cell_v_m", "grout_m"):
        row[name] *= scale
    for name in ("noise_u_per_m", "noise_v_per_m"):
        row[name] /= scale
    return np.array([row[name] for name in FIELDS], np.float32)


def _plain(rng):
    frequency = rng.uniform(2, 12)
    return dict(noise_u_per_m=frequency, noise_v_per_m=frequency)


def _marble(rng):
    frequency = rng.uniform(0.5, 8)
    stretch = rng.uniform(1, 4) if rng.random() < 0.4 else 1.0
    return dict(noise_u_per_m=frequency, noise_v_per_m=frequency * stretch, noise_blend=rng.uniform(0.4, 1.0))


def _tiles(rng):
    size = rng.uniform(0.2, 0.6)
    look = dict(cell_u_m=size, cell_v_m=size * rng.choice([1.0, 1.0, 0.5]), grout_m=rng.uniform(0.003, 0.01))
    look.update(grout_gain=rng.choice([0.4, 0.6, 1.5]), cell_variation=rng.uniform(0.02, 0.2))
    look["checker"] = rng.uniform(0.3, 1) if rng.random() < 0.4 else 0.0
    return look


def _planks(rng):
    look = dict(cell_u_m=rng.uniform(0.8, 2), cell_v_m=rng.uniform(0.1, 0.2), grout_m=rng.uniform(0.002, 0.005))
    look.update(grout_gain=0.4, row_shift=0.37, cell_variation=rng.uniform(0.08, 0.3), **_wood_tone(rng))
    return look


def _wood_tone(rng):
    tone = rng.uniform(0.15, 0.8) * np.array([1.0, rng.uniform(0.55, 0.8), rng.uniform(0.25, 0.55)])
    look = dict(zip(FIELDS[:6], (*tone, *(tone * rng.uniform(0.5, 0.8))), strict=True))
    look.update(noise_u_per_m=rng.uniform(1, 3), noise_v_per_m=rng.uniform(15, 40))
    look.update(noise_amp=rng.uniform(0.1, 0.3), noise_blend=rng.uniform(0, 0.5))
    return look


def _bricks(rng):
    width = rng.uniform(0.2, 0.4)
    look = dict(cell_u_m=width, cell_v_m=width * 0.35, row_shift=0.5, grout_m=rng.uniform(0.005, 0.012))
    look.update(grout_gain=rng.choice([0.5, 1.8]), cell_variation=rng.uniform(0.1, 0.4), noise_u_per_m=12.0)
    return look


def _stripes(rng):
    size = rng.uniform(0.05, 0.4)
    side = "cell_u_m" if rng.random() < 0.5 else "cell_v_m"
    return {side: size, "checker": rng.uniform(0.3, 1.0)}


def _dots(rng):
    size = rng.uniform(0.1, 0.4)
    return dict(cell_u_m=size, cell_v_m=size, dot=rng.uniform(0.15, 0.42), row_shift=rng.choice([0.0, 0.5]))


def _patches(rng):
    wide, high = rng.uniform(0.2, 1.2, size=2)
    return dict(cell_u_m=wide, cell_v_m=high, patch=1.0, cell_variation=rng.uniform(0.1, 0.6), row_shift=0.29)


def _books(rng):
    return dict(cell_u_m=rng.uniform(0.03, 0.07), cell_v_m=rng.uniform(0.25, 0.4), patch=1.0,
                cell_variation=0.7, grout_m=0.004, grout_gain=0.2)  # fmt: skip


_FAMILIES = dict(plain=_plain, marble=_marble, tiles=_tiles, planks=_planks, wood=_wood_tone, bricks=_bricks,
                 stripes=_stripes, dots=_dots, patches=_patches, books=_books)  # fmt: skip


def hash_unit(x_N, y_N, seed_N):
    """int32 lattice coordinates -> float32 in [0, 1]; wrapping integer arithmetic, alike on every machine."""
    h_N = x_N * 374761393 + y_N * 668265263 + seed_N * 1274126177
    h_N = (h_N ^ (h_N >> 13)) * 1103515245
    h_N = (h_N ^ (h_N >> 15)) * 668265263
    return ((h_N >> 8) & 0xFFFF).to(torch.float32) * (1.0 / 65535.0)


def value_noise(u_N, v_N, seed_N):
    """Smooth noise in [-1, 1], wavelength about 2."""
    u0_N, v0_N = torch.floor(u_N), torch.floor(v_N)
    a_N, b_N = u_N - u0_N, v_N - v0_N
    a_N, b_N = a_N * a_N * (3 - 2 * a_N), b_N * b_N * (3 - 2 * b_N)
    x_N, y_N = u0_N.to(torch.int32), v0_N.to(torch.int32)
    low_N = torch.lerp(hash_unit(x_N, y_N, seed_N), hash_unit(x_N + 1, y_N, seed_N), a_N)
    high_N = torch.lerp(hash_unit(x_N, y_N + 1, seed_N), hash_unit(x_N + 1, y_N + 1, seed_N), a_N)
    return torch.lerp(low_N, high_N, b_N) * 2 - 1


def fbm(u_N, v_N, cycles_N, seed_N, octaves=3):
    """Summed noise; an octave fades out before its wavelength reaches the pixel. cycles_N: lattice cells a pixel."""
    total_N, amplitude = 0.0, 0.57
    for octave in range(octaves):
        fade_N = (2.0 - 3.0 * cycles_N).clamp(0, 1)
        total_N = total_N + amplitude * fade_N * value_noise(u_N, v_N, seed_N + 77 * octave)
        u_N, v_N, cycles_N, amplitude = u_N * 2.03 + 5.2, v_N * 2.03 + 1.3, cycles_N * 2.03, amplitude * 0.55
    return total_N


def albedo(material, u_N, v_N, footprint_m_N):
    """Three colour channels (list of N) at surface coordinates u, v in metres.

    material: name -> N. footprint_m_N: size of a pixel on the surface, metres; finer detail is averaged away.
    """
    seed_N = material["seed"].to(torch.int32)
    shade_N, mix_N = _cells(material, u_N, v_N, footprint_m_N, seed_N)
    fu_N, fv_N = material["noise_u_per_m"], material["noise_v_per_m"]
    noise_N = fbm(u_N * fu_N, v_N * fv_N, footprint_m_N * torch.maximum(fu_N, fv_N), seed_N)
    mix_N = (mix_N + material["noise_blend"] * (0.5 + noise_N).clamp(0, 1)).clamp(0, 1)
    shade_N = shade_N * (1 + material["noise_amp"] * noise_N)
    pairs = (("red", "red2"), ("green", "green2"), ("blue", "blue2"))
    return [torch.lerp(material[a], material[b], mix_N) * shade_N for a, b in pairs]


def _cells(material, u_N, v_N, footprint_m_N, seed_N):
    """Brightness factor and mix towards the second colour of the cell pattern."""
    wide_N, high_N = material["cell_u_m"], material["cell_v_m"]
    b_N = v_N / high_N + 0.5
    row_N = torch.floor(b_N)
    a_N = u_N / wide_N + 0.5 + material["row_shift"] * row_N
    column_N = torch.floor(a_N)
    a_N, b_N = a_N - column_N, b_N - row_N
    x_N, y_N = column_N.to(torch.int32), row_N.to(torch.int32)
    random_N = hash_unit(x_N, y_N, seed_N) * 2 - 1
    fade_N = (2 - 2 * footprint_m_N / torch.minimum(wide_N, high_N)).clamp(0, 1)
    parity_N = ((x_N + y_N) & 1).to(torch.float32) - 0.5
    mix_N = 0.5 * (material["checker"] + material["patch"]) + fade_N * (
        material["checker"] * parity_N + material["patch"] * 0.5 * random_N
    )
    mix_N = mix_N + fade_N * _dot(material, a_N, b_N, footprint_m_N)
    shade_N = 1 + material["cell_variation"] * fade_N * random_N * 0.7
    edge_m_N = torch.minimum((0.5 - (a_N - 0.5).abs()) * wide_N, (0.5 - (b_N - 0.5).abs()) * high_N)
    return shade_N * _grout(material, edge_m_N, footprint_m_N), mix_N


def _dot(material, a_N, b_N, footprint_m_N):
    radius_N = torch.sqrt((a_N - 0.5) ** 2 + (b_N - 0.5) ** 2 + 1e-9)
    edge_N = (material["dot"] - radius_N) * material["cell_u_m"] / footprint_m_N
    return (edge_N + 0.5).clamp(0, 1) * (material["dot"] > 0)


def _grout(material, edge_m_N, footprint_m_N):
    line_N = ((material["grout_m"] - edge_m_N) / footprint_m_N + 0.5).clamp(0, 1)
    line_N = line_N * (2 * material["grout_m"] / footprint_m_N).clamp(0, 1)
    return 1 + line_N * (material["grout_gain"] - 1)
