"""Albedo of surface points from rows of material numbers. Pointwise torch.

Coordinates are metres on the object's own surface, so a texture moves with its object.

Shapes: N any shape of pixels, L all texels of the photographs.
"""

import functools

import torch
from safetensors import safe_open

PHOTO_PX = 128
_LEVELS = 8  # 128, 64, .. 1


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
    mix_N = mix_N + _gradient(material, u_N, v_N) + _glyphs(material, u_N, v_N, footprint_m_N, seed_N)
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


def _gradient(material, u_N, v_N):
    """Triangle wave along a slanted line."""
    a_N = (0.4 * u_N + v_N) / material["gradient_m"]
    return material["gradient"] * (a_N - 2 * torch.floor(0.5 * a_N) - 1).abs()


def _glyphs(material, u_N, v_N, footprint_m_N, seed_N):
    """Rows of random glyphs of 4 x 7 dots, with gaps between glyphs, words and lines."""
    size_N = material["glyph_m"]
    a_N, b_N = u_N / (0.7 * size_N), v_N / (1.6 * size_N)
    column_N, row_N = torch.floor(a_N), torch.floor(b_N)
    x_N, y_N = column_N.to(torch.int32), row_N.to(torch.int32)
    dot_x_N, dot_y_N = torch.floor((a_N - column_N) * 5), torch.floor((b_N - row_N) * 11)
    dot_N = hash_unit(x_N * 8 + dot_x_N.to(torch.int32), y_N * 16 + dot_y_N.to(torch.int32), seed_N) > 0.42
    word_N = hash_unit(x_N, y_N, seed_N + 5) > 0.17
    ink_N = (dot_N & word_N & (dot_x_N < 4) & (dot_y_N < 7)).to(torch.float32)
    fade_N = (2 - 6 * footprint_m_N / size_N).clamp(0, 1)
    return material["glyph"] * torch.lerp(torch.full_like(ink_N, 0.25), ink_N, fade_N)


@functools.lru_cache(maxsize=4)
def load_photos(path, device):
    """Texels of a file of photographs, all mip levels one after the other: int32 (L,), blue-green-red in the lower
    24 bits; and the number of photographs.

    Raises: ValueError for a file that does not hold ``patches`` uint8 [n, 3, 128, 128].
    """
    with safe_open(path, framework="pt") as file:
        level_N3HW = file.get_tensor("patches") if "patches" in set(file.keys()) else torch.empty(0)
    if level_N3HW.shape[1:] != (3, PHOTO_PX, PHOTO_PX) or level_N3HW.dtype != torch.uint8:
        found = f"{level_N3HW.dtype} {list(level_N3HW.shape)}"
        raise ValueError(f"textures={path!r} must hold 'patches', uint8 [n, 3, {PHOTO_PX}, {PHOTO_PX}]; found {found}")
    levels, count = [], len(level_N3HW)
    for _ in range(_LEVELS):
        red, green, blue = level_N3HW.to(torch.int32).unbind(1)
        levels.append((red | green << 8 | blue << 16).flatten())
        if level_N3HW.shape[-1] > 1:
            level_N3HW = torch.nn.functional.avg_pool2d(level_N3HW.float(), 2).round().to(torch.uint8)
    return torch.cat(levels).to(device), count


def photo_albedo(texels_L, count, material, u_N, v_N, footprint_m_N):
    """Linear RGB (list of N) of the photographs, mirrored where they repeat; bilinear in the nearest mip level."""
    size_m_N = material["photo_m"]
    lod_N = torch.log2(footprint_m_N * PHOTO_PX / size_m_N).clamp(0, _LEVELS - 1).round().to(torch.int32)
    side_N = torch.bitwise_right_shift(torch.full_like(lod_N, PHOTO_PX), lod_N)
    base_N = count * torch.div((PHOTO_PX * PHOTO_PX - side_N * side_N) * 4, 3, rounding_mode="floor")
    which_N = material["photo"].to(torch.int32) % count
    x0_N, x1_N, a_N = _mirrored(u_N / size_m_N + 0.5, side_N)
    y0_N, y1_N, b_N = _mirrored(0.5 - v_N / size_m_N, side_N)
    start_N = base_N + which_N * side_N * side_N
    corners = [texels_L[(start_N + y * side_N + x).to(torch.int64)] for y in (y0_N, y1_N) for x in (x0_N, x1_N)]
    channels = []
    for shift in (0, 8, 16):
        p00, p01, p10, p11 = (((c >> shift) & 255).to(torch.float32) for c in corners)
        value_N = torch.lerp(torch.lerp(p00, p01, a_N), torch.lerp(p10, p11, a_N), b_N) * (1 / 255)
        channels.append(0.9 * value_N * value_N + 0.01)
    return channels


def _mirrored(coordinate_N, side_N):
    """The two texels beside a coordinate (1 = one photograph) and the place between them."""
    half_N = 0.5 * coordinate_N
    place_N = 1 - (1 - 2 * (half_N - torch.floor(half_N))).abs()
    place_N = place_N * side_N - 0.5
    low_N = torch.floor(place_N)
    first_N = low_N.to(torch.int32)
    return first_N.clamp_min(0), torch.minimum(first_N + 1, side_N - 1), place_N - low_N
