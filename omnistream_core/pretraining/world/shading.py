"""What a hit point looks like: surface coordinates, paint, light, fog. Pointwise torch.

Shapes: R tiles, P pixels of a tile, C columns of a table, X all slots of all frames, Y all slots of all clips,
M material numbers. Room axes: z up.
"""

import torch

from .material import INDEX
from .scene import FIRST_ROUND, SHELL_MATERIALS
from .texture import albedo, photo_albedo

GEOMETRY = 18  # columns of the slot geometry: centre 3, unit_from_room 9, half size 3, shape 3
_SHADOW_BIAS_M = 0.004


def surface(geometry_XC, start_R, eye_3R, sharp_R, directions_3RP, depth_RP, slot_RP):
    """Point, normal, surface coordinates u, v and footprint (all metres): (9, R, P); and material slot (int32).

    geometry_XC: slot geometry; start_R: where a tile's frame begins in it.
    """
    index_RP = start_R[:, None] + slot_RP
    row = [geometry_XC[index_RP, i] for i in range(GEOMETRY)]
    point = [eye_3R[i, :, None] + directions_3RP[i] * depth_RP for i in range(3)]
    normal, u_RP, v_RP, skin_RP = _chart(row, point, slot_RP)
    length2_RP = sum(directions_3RP[i] * directions_3RP[i] for i in range(3))
    facing_RP = -sum(directions_3RP[i] * normal[i] for i in range(3)) * torch.rsqrt(length2_RP)
    ray_m_RP = depth_RP * torch.sqrt(length2_RP)
    footprint_RP = ray_m_RP / (sharp_R[:, None] * facing_RP.clamp_min(0.12)) + 1e-4
    return torch.stack([*point, *normal, u_RP, v_RP, footprint_RP]), skin_RP


def _chart(row, point, slot_RP):
    """Normal (room axes), surface coordinates u, v in metres and material slot of hit points."""
    offset = [point[i] - row[i] for i in range(3)]
    x, y, z = (sum(row[3 + 3 * i + j] * offset[j] for j in range(3)) for i in range(3))
    hx, hy, hz, c2, c1, c0 = row[12:]
    is_round, is_room = slot_RP >= FIRST_ROUND, slot_RP == 0
    ax, ay, az = x.abs(), y.abs(), z.abs()
    bulge = x * x + y * y + (c2 * z + c1) * z + c0
    flat_z = torch.where(is_round, 1 - az + 1e-4 < -bulge, (az >= ax) & (az >= ay))
    flat_x, side = ~is_round & ~flat_z & (ax >= ay), is_round & ~flat_z
    flat_y = ~is_round & ~flat_z & ~flat_x
    gx = torch.where(side, x, flat_x * torch.sign(x))
    gy = torch.where(side, y, flat_y * torch.sign(y))
    gz = torch.where(side, c2 * z + 0.5 * c1, flat_z * torch.sign(z))
    normal = [row[3 + j] * gx + row[6 + j] * gy + row[9 + j] * gz for j in range(3)]
    over = torch.where(is_room, -1.0, 1.0) * torch.rsqrt(sum(n * n for n in normal) + 1e-20)
    u = torch.where(side, torch.atan2(y, x) * hx, torch.where(flat_x, y * hy, x * hx))
    v = torch.where(flat_z, y * hy, z * hz)
    shell = torch.where(flat_z, torch.where(z > 0, 2, 1), torch.where(flat_x & (x > 0), 3, 0))
    skin = torch.where(is_room, shell, slot_RP + (SHELL_MATERIALS - 1))
    return [n * over for n in normal], u, v, skin.to(torch.int32)


def paint(materials_YM, begin_R, spot_9RP, skin_RP):
    """Albedo of every hit, (3, R, P), without photographs."""
    return torch.stack(albedo(_material(materials_YM, begin_R, skin_RP), spot_9RP[6], spot_9RP[7], spot_9RP[8]))


def paint_photos(materials_YM, begin_R, spot_9RP, skin_RP, texels_L, count):
    """Albedo of every hit, (3, R, P)."""
    material = _material(materials_YM, begin_R, skin_RP)
    plain = albedo(material, spot_9RP[6], spot_9RP[7], spot_9RP[8])
    photo = photo_albedo(texels_L, count, material, spot_9RP[6], spot_9RP[7], spot_9RP[8])
    return torch.stack([torch.lerp(a, b, material["photo_blend"]) for a, b in zip(plain, photo, strict=True)])


def _material(materials_YM, begin_R, skin_RP):
    index_RP = begin_R[:, None] + skin_RP
    return {name: materials_YM[index_RP, i] for name, i in INDEX.items()}


def illuminate(light, materials_YM, begin_R, spot_9RP, skin_RP, colour_3RP, directions_3RP, lit_RP, so_far_3RP):
    """Light from the lamps and the surroundings on painted points, then fog: (3, R, P), added to so_far_3RP.

    light: name -> row numbers. lit_RP: share of the way from the main lamp at which something is hit (1 = the point).
    """
    index_RP = begin_R[:, None] + skin_RP
    length_RP = torch.sqrt(sum(directions_3RP[i] * directions_3RP[i] for i in range(3)))
    view = [directions_3RP[i] / length_RP for i in range(3)]
    specular, polish, glow, unlit = (
        materials_YM[index_RP, INDEX[name]] for name in ("specular", "polish", "emission", "unlit")
    )
    point, normal = [spot_9RP[i] for i in range(3)], [spot_9RP[i] for i in range(3, 6)]
    shine, gloss_RP = _light(light, point, normal, view, lit_RP, specular, polish)
    way_m_RP = sum((point[i] - light["eye_3R"][i, :, None]) ** 2 for i in range(3)).sqrt()
    clear_RP = torch.exp(-light["fog_4R"][3, :, None] * way_m_RP)
    seen = [colour_3RP[i] * (shine[i] * (1 - unlit) + glow) + gloss_RP * (1 - unlit) for i in range(3)]
    fog = [light["fog_4R"][i, :, None] for i in range(3)]
    return torch.stack([so_far_3RP[i] + fog[i] + (seen[i] - fog[i]) * clear_RP for i in range(3)])


def _light(light, point, normal, view, lit_RP, specular, polish):
    """Irradiance per channel and the highlight."""
    up_RP = (0.8 + 0.2 * normal[2] + 0.08 * normal[0]) * _corner_shade(light["room_6R"], point)
    shine = [light["ambient_3R"][i, :, None] * up_RP for i in range(3)]
    gloss_RP = 0.0
    far_m_RP = sum((point[i] - light["lamp_6R"][i, :, None]) ** 2 for i in range(3)).sqrt()
    lit_RP = ((1 - lit_RP) * far_m_RP < _SHADOW_BIAS_M + 4e-5 * far_m_RP).to(torch.float32)
    for lamp_6R, seen in ((light["lamp_6R"], lit_RP), (light["lamp2_6R"], 1.0)):
        power_RP, mirror_RP = _lamp(lamp_6R, point, normal, view, polish)
        power_RP = power_RP * seen
        shine = [shine[i] + lamp_6R[3 + i, :, None] * power_RP for i in range(3)]
        gloss_RP = gloss_RP + specular * lamp_6R[4, :, None] * power_RP * mirror_RP
    return shine, gloss_RP


def _lamp(lamp_6R, point, normal, view, polish):
    """Lambert term over the squared distance, and the highlight (Blinn-Phong)."""
    to = [lamp_6R[i, :, None] - point[i] for i in range(3)]
    far2_RP = to[0] * to[0] + to[1] * to[1] + to[2] * to[2]
    over_RP = torch.rsqrt(far2_RP + 1e-6)
    lambert_RP = (to[0] * normal[0] + to[1] * normal[1] + to[2] * normal[2]) * over_RP
    half = [to[i] * over_RP - view[i] for i in range(3)]
    size2_RP = half[0] * half[0] + half[1] * half[1] + half[2] * half[2] + 1e-6
    mirror_RP = (half[0] * normal[0] + half[1] * normal[1] + half[2] * normal[2]).clamp_min(1e-3)
    mirror_RP = torch.exp(0.5 * polish * torch.log(mirror_RP * mirror_RP / size2_RP))
    return lambert_RP.clamp_min(0) / (far2_RP + 0.5), mirror_RP


def _corner_shade(room_6R, point):
    """Ambient light fades near the edges of the room and near the floor. room_6R: centre and half size."""
    gap = [room_6R[3 + i, :, None] - (point[i] - room_6R[i, :, None]).abs() for i in range(3)]
    low, high = torch.minimum(gap[0], gap[1]), torch.maximum(gap[0], gap[1])
    second = torch.maximum(low, torch.minimum(high, gap[2]))
    return 1 - 0.4 * torch.exp(-4.0 * second.clamp_min(0)) - 0.15 * torch.exp(-3.0 * point[2].clamp_min(0))
