"""Ray casting of sampled rooms in plain torch, on CPU or GPU.

Every per-pixel function is pointwise and unrolled over a few primitive slots, so torch.compile fuses it into one
vectorised loop; run eagerly it gives the same picture. Work is done in chunks of frames of fixed size, so one
compilation serves every batch of one image size.

Shapes: B clips, T frames, F frames of a chunk (of any clips), P pixels, K primitive slots, M material numbers,
C columns of a table. Room axes: z up. Camera axes as OpenCV.
"""

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .config import ClipBatch, WorldConfig
from .scene import FIRST, SHELL_MATERIALS, SLOT_COUNT, SLOTS, sample_scene
from .texture import INDEX, albedo, hash_unit

CHUNK_FRAMES = 8
FAR_M = 40.0
_SHADOW_BIAS = 0.004  # of the way from the lamp
_TINY = 1.3e-7  # keeps divisions finite for rays parallel to an axis
_BOX_GROUP = 3  # boxes tested by one kernel; more compile slowly and run no faster
_SLOT_BITS = 31  # room for SLOT_COUNT <= 32 in the lowest bits of a depth


def nearest_hit(kernels, slots, directions_3FP):
    """Nearest surface along rays from one point per frame.

    slots: groups of slots as made by ``_slot_groups``, seen from that point. Returns the ray parameter (float32) and
    the slot (int32), both (F, P).

    The running best is one integer: the bits of a positive float sort like the float, and the lowest bits give way
    to the slot number. So a group of slots is a single chain of minima, which fuses well; it costs 4e-6 of the depth.
    """
    best_FP = kernels.room_key(slots["room"], directions_3FP)
    for kind, kernel in (("box", kernels.box_key), ("round", kernels.round_key)):
        for rows_CFK, number_K in slots[kind]:
            best_FP = kernel(best_FP, rows_CFK, number_K, directions_3FP)
    return kernels.unpack_key(best_FP)


def _slot_groups(origin_3FK, slots_8FK):
    """Slots by kind in groups of fixed size, without those groups that are empty in all frames."""
    rows_CFK = torch.cat([origin_3FK, slots_8FK[3:]])
    present_K = (slots_8FK[2] > -50).any(0)
    number_K = torch.arange(SLOT_COUNT, dtype=torch.int32, device=rows_CFK.device)
    groups: dict[str, Any] = {"room": rows_CFK[:, :, :1].contiguous(), "box": [], "round": []}
    spans = [("box", k, k + _BOX_GROUP) for k in range(1, FIRST["sphere"], _BOX_GROUP)]
    for kind, first, last in [*spans, ("round", FIRST["sphere"], SLOT_COUNT)]:
        if present_K[first:last].any():
            groups[kind].append((rows_CFK[:, :, first:last].contiguous(), number_K[first:last].clone()))
    return groups


def room_key(rows_CFK, directions_3FP):
    """The room seen from inside, as the first best."""
    dx, dy, dz = (directions_3FP[i] + _TINY for i in range(3))
    ox, oy, oz, hx, hy, hz, _, _ = (rows_CFK[i] for i in range(8))
    return _box_span(ox, oy, oz, hx, hy, hz, dx, dy, 1.0 / dz)[1].view(torch.int32) & ~_SLOT_BITS


def box_key(best_FP, rows_CFK, number_K, directions_3FP):
    """Best after a group of boxes."""
    dx, dy, dz = directions_3FP[0], directions_3FP[1], directions_3FP[2] + _TINY
    over_z = 1.0 / dz
    for k in range(rows_CFK.shape[2]):
        ox, oy, oz, hx, hy, hz, cos, sin = (rows_CFK[i, :, k, None] for i in range(8))
        along, across = cos * dx + sin * dy + _TINY, cos * dy - sin * dx + _TINY
        best_FP = _better(best_FP, _box_span(ox, oy, oz, hx, hy, hz, along, across, over_z), number_K[k])
    return best_FP


def round_key(best_FP, rows_CFK, number_K, directions_3FP):
    """Best after the spheres and the cylinders."""
    dx, dy, dz = (directions_3FP[i] + _TINY for i in range(3))
    over_z = 1.0 / dz
    for k in range(rows_CFK.shape[2]):
        ox, oy, oz, hx, _, hz, cos, sin = (rows_CFK[i, :, k, None] for i in range(8))
        if k < SLOTS["sphere"]:
            span = _round_span(ox, oy, oz, hx, dx, dy, dz)
        else:
            span = _cylinder_span(ox, oy, oz, hx, hz, cos * dx + sin * dy, cos * dy - sin * dx, over_z)
        best_FP = _better(best_FP, span, number_K[k])
    return best_FP


def _better(best_FP, span, number):
    near_FP, far_FP = span
    near_FP = torch.where((near_FP < far_FP) & (near_FP > 0), near_FP, 1e6)
    return torch.minimum(best_FP, (near_FP.view(torch.int32) & ~_SLOT_BITS) | number)


def unpack_key(best_FP):
    """Ray parameter and slot of a key."""
    return (best_FP & ~_SLOT_BITS).view(torch.float32), best_FP & _SLOT_BITS


def _box_span(ox, oy, oz, hx, hy, hz, dx, dy, over_z):
    over_xy = 1.0 / (dx * dy)
    over_x, over_y = dy * over_xy, dx * over_xy
    mid_x, mid_y, mid_z = -ox * over_x, -oy * over_y, -oz * over_z
    half_x, half_y, half_z = (hx * over_x).abs(), (hy * over_y).abs(), (hz * over_z).abs()
    near = torch.maximum(torch.maximum(mid_x - half_x, mid_y - half_y), mid_z - half_z)
    far = torch.minimum(torch.minimum(mid_x + half_x, mid_y + half_y), mid_z + half_z)
    return near, far


def _round_span(ox, oy, oz, radius, dx, dy, dz):
    over = 1.0 / (dx * dx + dy * dy + dz * dz)
    middle = -(ox * dx + oy * dy + oz * dz) * over
    # The distance of the ray from the centre, taken from the closest point: no cancellation far away.
    px, py, pz = ox + middle * dx, oy + middle * dy, oz + middle * dz
    room = (radius * radius - (px * px + py * py + pz * pz)) * over
    half = torch.sqrt(room.clamp_min(0))
    return middle - half, middle + half


def _cylinder_span(ox, oy, oz, radius, half_height, dx, dy, over_z):
    near, far = _round_span(ox, oy, torch.zeros_like(oz), radius, dx, dy, torch.zeros_like(dx))
    mid_z, half_z = -oz * over_z, (half_height * over_z).abs()
    return torch.maximum(near, mid_z - half_z), torch.minimum(far, mid_z + half_z)


@functools.lru_cache(maxsize=8)
def _pixel_grid(height_px, width_px, device):
    """Column and row of every pixel: int32 (2, P)."""
    index_P = torch.arange(height_px * width_px, device=device)
    return torch.stack([index_P % width_px, index_P // width_px]).to(torch.int32)


def pixel_directions(poses_9F, lens_F, middle_2, grid_2P):
    """Room-frame ray directions (3, F, P) whose parameter is z-depth. middle_2: principal point less the sub-pixel."""
    x_FP = (grid_2P[0] - middle_2[0]) / lens_F[:, None]
    y_FP = (grid_2P[1] - middle_2[1]) / lens_F[:, None]
    r = [poses_9F[i, :, None] for i in range(9)]
    return torch.stack([r[3 * i] * x_FP + r[3 * i + 1] * y_FP + r[3 * i + 2] for i in range(3)])


def lamp_directions(eye_3F, lamp_6F, directions_3FP, depth_FP):
    """From the main lamp to each hit point: (3, F, P)."""
    return (eye_3F - lamp_6F[:3])[:, :, None] + directions_3FP * depth_FP


def shade(kernels, chunk, directions_3FP, depth_FP, slot_FP, lit_FP):
    """Linear RGB, three (F, P). lit_FP: ray parameter of the main lamp's first hit (1 = the point itself)."""
    scene, materials_MFN = chunk["scene"], chunk["materials_MFN"]
    spot, skin_FP = kernels.surface(scene, directions_3FP, depth_FP, slot_FP)
    colour = kernels.paint(materials_MFN, spot, skin_FP)
    return kernels.illuminate(scene, materials_MFN, spot, skin_FP, colour, directions_3FP, lit_FP)


def surface(scene, directions_3FP, depth_FP, slot_FP):
    """Point, normal, surface coordinates u, v and footprint (all metres) and material index (int32)."""
    slot_FP = slot_FP.to(torch.int64)
    geometry = [scene["slots_C"][i].gather(1, slot_FP) for i in range(8)]
    point = [scene["eye_3F"][i, :, None] + directions_3FP[i] * depth_FP for i in range(3)]
    normal, u_FP, v_FP, skin_FP = _chart(geometry, point, slot_FP)
    length2_FP = sum(directions_3FP[i] * directions_3FP[i] for i in range(3))
    facing_FP = -sum(directions_3FP[i] * normal[i] for i in range(3)) * torch.rsqrt(length2_FP)
    ray_m_FP = depth_FP * torch.sqrt(length2_FP)
    footprint_FP = ray_m_FP / (scene["sharp_F"][:, None] * facing_FP.clamp_min(0.12)) + 1e-4
    return (*point, *normal, u_FP, v_FP, footprint_FP), skin_FP.to(torch.int32)


def paint(materials_MFN, spot, skin_FP):
    """Albedo of every hit: three (F, P)."""
    skin_FP = skin_FP.to(torch.int64)
    material = {name: materials_MFN[i].gather(1, skin_FP) for name, i in INDEX.items()}
    return albedo(material, spot[6], spot[7], spot[8])


def illuminate(scene, materials_MFN, spot, skin_FP, colour, directions_3FP, lit_FP):
    """Light from the lamps and the surroundings on painted points: three (F, P)."""
    skin_FP = skin_FP.to(torch.int64)
    length_FP = torch.rsqrt(sum(directions_3FP[i] * directions_3FP[i] for i in range(3)))
    view = [directions_3FP[i] * length_FP for i in range(3)]
    specular_FP, glow_FP = (materials_MFN[INDEX[name]].gather(1, skin_FP) for name in ("specular", "emission"))
    light, gloss_FP = _light(scene, spot[:3], spot[3:6], view, lit_FP, specular_FP)
    return [colour[i] * (light[i] + glow_FP) + gloss_FP for i in range(3)]


def _chart(geometry, point, slot_FP):
    """Normal (room axes), surface coordinates u, v in metres and material index of hit points."""
    cx, cy, cz, hx, hy, hz, cos, sin = geometry
    x, y, z = point[0] - cx, point[1] - cy, point[2] - cz
    x, y = cos * x + sin * y, cos * y - sin * x
    ax, ay, az = x.abs() / hx, y.abs() / hy, z.abs() / hz
    is_round = slot_FP >= FIRST["sphere"]
    is_ball = is_round & (slot_FP < FIRST["cylinder"])
    flat_z = torch.where(is_round, az * az > (x * x + y * y) / (hx * hx), (az >= ax) & (az >= ay)) & ~is_ball
    flat_x = ~is_round & ~flat_z & (ax >= ay)
    flat_y = ~is_round & ~flat_z & ~flat_x
    side = is_round & ~flat_z
    nx = torch.where(side, x / hx, flat_x * torch.sign(x))
    ny = torch.where(side, y / hy, flat_y * torch.sign(y))
    nz = torch.where(is_ball, z / hz, flat_z * torch.sign(z))
    turn = torch.where(slot_FP == 0, -1.0, 1.0)
    around = torch.atan2(y, x) * hx
    u = torch.where(side, around, torch.where(flat_x, y, x))
    v = torch.where(flat_z, y, z)
    shell = torch.where(flat_z, torch.where(z > 0, 2, 1), torch.where(flat_x & (x > 0), 3, 0))
    skin = torch.where(slot_FP == 0, shell, slot_FP + (SHELL_MATERIALS - 1))
    return (turn * (cos * nx - sin * ny), turn * (sin * nx + cos * ny), turn * nz), u, v, skin


def _light(scene, point, normal, view, lit_FP, specular_FP):
    """Irradiance per channel and the highlight."""
    up_FP = (0.85 + 0.15 * normal[2] + 0.08 * normal[0]) * _corner_shade(scene, point)
    light = [scene["ambient_3F"][i, :, None] * up_FP for i in range(3)]
    gloss_FP = 0.0
    visible_FP = (lit_FP > 1 - _SHADOW_BIAS).to(torch.float32)
    for lamp_6F, seen in ((scene["lamp_6F"], visible_FP), (scene["lamp2_6F"], 1.0)):
        power_FP, shine_FP = _lamp(lamp_6F, point, normal, view)
        power_FP = power_FP * seen
        light = [light[i] + lamp_6F[3 + i, :, None] * power_FP for i in range(3)]
        gloss_FP = gloss_FP + specular_FP * lamp_6F[4, :, None] * power_FP * shine_FP
    return light, gloss_FP


def _lamp(lamp_6F, point, normal, view):
    """Lambert term over the squared distance, and the highlight (Blinn-Phong, exponent 16)."""
    to = [lamp_6F[i, :, None] - point[i] for i in range(3)]
    far2_FP = to[0] * to[0] + to[1] * to[1] + to[2] * to[2]
    over_FP = torch.rsqrt(far2_FP + 1e-6)
    lambert_FP = (to[0] * normal[0] + to[1] * normal[1] + to[2] * normal[2]) * over_FP
    half = [to[i] * over_FP - view[i] for i in range(3)]
    size2_FP = half[0] * half[0] + half[1] * half[1] + half[2] * half[2] + 1e-6
    shine_FP = (half[0] * normal[0] + half[1] * normal[1] + half[2] * normal[2]).clamp_min(0)
    return lambert_FP.clamp_min(0) / (far2_FP + 0.5), torch.pow(shine_FP * shine_FP / size2_FP, 8)


def _corner_shade(scene, point):
    """Ambient light fades near the edges of the room and near the floor."""
    slots_C = scene["slots_C"]
    gap = [slots_C[3 + i, :, :1] - (point[i] - slots_C[i, :, :1]).abs() for i in range(3)]
    low, high = torch.minimum(gap[0], gap[1]), torch.maximum(gap[0], gap[1])
    second = torch.maximum(low, torch.minimum(high, gap[2]))
    return 1 - 0.4 * torch.exp(-4.0 * second.clamp_min(0)) - 0.15 * torch.exp(-3.0 * point[2].clamp_min(0))


def develop(linear_3FP, effects_9F, frame_F, grid_2P, middle_2):
    """Linear RGB -> sensor values in [0, 255]: vignette, exposure, white balance, tone curve, noise."""
    x_P, y_P = (grid_2P[0] - middle_2[0]) / middle_2[0], (grid_2P[1] - middle_2[1]) / middle_2[0]
    fall_FP = (1 - effects_9F[5, :, None] * (x_P * x_P + y_P * y_P) * 0.4) * effects_9F[0, :, None]
    seed_F1 = (effects_9F[8].to(torch.int32) + 7919 * frame_F)[:, None]
    channels = []
    for i in range(3):
        value_FP = (linear_3FP[i] * fall_FP * effects_9F[1 + i, :, None]).clamp_min(1e-5)
        value_FP = value_FP * (1 + 0.12 * value_FP) * torch.rsqrt(1 + 0.55 * value_FP * value_FP)
        value_FP = torch.exp(torch.log(value_FP) / effects_9F[4, :, None])
        grain_FP = hash_unit(grid_2P[0], grid_2P[1], seed_F1 + 31 * i)
        grain_FP = grain_FP + hash_unit(grid_2P[0], grid_2P[1], seed_F1 + 31 * i + 11)
        value_FP = value_FP + (grain_FP - 1) * 2.4 * effects_9F[6, :, None]
        channels.append((value_FP * 255).clamp(0, 255))
    return torch.stack(channels)


_KERNELS = (room_key, box_key, round_key, unpack_key, pixel_directions, lamp_directions, surface, paint, illuminate,
            develop)  # fmt: skip


@functools.cache
def _kernels(compiled):
    """The pointwise functions by name, as they are or each compiled."""
    wrap = functools.partial(torch.compile, dynamic=False) if compiled else lambda fn: fn
    return SimpleNamespace(**{fn.__name__: wrap(fn) for fn in _KERNELS})


def render_clips(
    seeds: Sequence[int], config: WorldConfig, *, device: str | torch.device = "cpu", compile: bool = False
) -> ClipBatch:
    """Render one clip per seed. compile: fuse the kernels with torch.compile (once per image size)."""
    if len(seeds) == 0:
        raise ValueError("seeds is empty; give one integer >= 0 per clip")
    scenes = [sample_scene(seed, config) for seed in seeds]
    tables = _tables(scenes, config, device)
    kernels = _kernels(bool(compile))
    frames = len(scenes) * config.frames
    linear: list[torch.Tensor] = []
    depth: list[torch.Tensor] = []
    ids: list[torch.Tensor] = []
    for start in range(0, frames, CHUNK_FRAMES):
        index_F = torch.arange(start, start + CHUNK_FRAMES, device=device).clamp_max(frames - 1)
        chunk = {name: value[:, index_F].contiguous() for name, value in tables.items()}
        parts = _render_chunk(kernels, chunk, config)
        for kept, part in zip((linear, depth, ids), parts, strict=True):
            kept.append(part[..., : frames - start, :])
    linear_3FP = torch.cat(linear, 1)
    images_BT3HW = _photograph(kernels, linear_3FP, scenes, config)
    return _batch(scenes, config, images_BT3HW, torch.cat(depth), torch.cat(ids), device)


def _tables(scenes, config, device):
    """Per-frame numbers of all clips, frames last but one: name -> (C, F) or (C, F, K)."""
    repeat = config.frames
    poses_F44 = np.concatenate([s.room_from_camera_T44 for s in scenes])
    slots_FK8 = np.concatenate([s.slots_TK8 for s in scenes])
    lamps_B26 = np.stack([s.lamps_26 for s in scenes])
    per_frame = dict(
        poses_9F=poses_F44[:, :3, :3].reshape(-1, 9).T,
        eye_3F=poses_F44[:, :3, 3].T,
        lens_F=np.repeat([s.focal_px for s in scenes], repeat)[None],
        slots_C=slots_FK8.transpose(2, 0, 1),
        eye_KC=_local(poses_F44[:, :3, 3], slots_FK8),
        lamp_KC=_local(np.repeat(lamps_B26[:, 0, :3], repeat, 0), slots_FK8),
        lamp_6F=np.repeat(lamps_B26[:, 0], repeat, 0).T,
        lamp2_6F=np.repeat(lamps_B26[:, 1], repeat, 0).T,
        ambient_3F=np.repeat([s.ambient_3 for s in scenes], repeat, 0).T,
        materials_MFN=np.repeat([s.materials_NM for s in scenes], repeat, 0).transpose(2, 0, 1),
        instance_FK=np.repeat([s.instance_K for s in scenes], repeat, 0)[None],
    )
    return {
        name: torch.tensor(np.ascontiguousarray(value, np.float32), device=device) for name, value in per_frame.items()
    }


def _local(point_F3, slots_FK8):
    """A point per frame in the axes of every slot: (3, F, K)."""
    delta_FK3 = point_F3[:, None] - slots_FK8[..., :3]
    cos_FK, sin_FK = slots_FK8[..., 6], slots_FK8[..., 7]
    x_FK = cos_FK * delta_FK3[..., 0] + sin_FK * delta_FK3[..., 1]
    y_FK = cos_FK * delta_FK3[..., 1] - sin_FK * delta_FK3[..., 0]
    return np.stack([x_FK, y_FK, delta_FK3[..., 2]])


def _render_chunk(kernels, chunk, config):
    """Linear colour (3, F, P), z-depth and instance ids (F, P) of one chunk of frames."""
    side = config.supersample
    names = ("slots_C", "eye_3F", "lamp_6F", "lamp2_6F", "ambient_3F")
    chunk["scene"] = {name: chunk[name] for name in names} | {"sharp_F": chunk["lens_F"][0] * side}
    chunk["from_eye"] = _slot_groups(chunk["eye_KC"], chunk["slots_C"])
    chunk["from_lamp"] = _slot_groups(chunk["lamp_KC"], chunk["slots_C"])
    places = [((j + 0.5) / side, (i + 0.5) / side) for i in range(side) for j in range(side)]
    passes = [_colour_pass(kernels, chunk, place, config) for place in places]
    colour_3FP = torch.stack([sum(channel) / len(places) for channel in zip(*passes, strict=True)])
    depth_FP, slot_FP = nearest_hit(kernels, chunk["from_eye"], _rays(kernels, chunk, (0.5, 0.5), config))
    ids_FP = chunk["instance_FK"][0].gather(1, slot_FP.long()).to(torch.int16)
    return colour_3FP, depth_FP.clamp(1e-3, FAR_M), ids_FP


def _rays(kernels, chunk, place, config):
    """Directions through one place in every pixel; place (0.5, 0.5) is the centre."""
    height, width, lens_F = config.height_px, config.width_px, chunk["lens_F"][0]
    middle_2 = torch.tensor([width / 2 - place[0], height / 2 - place[1]], device=lens_F.device)
    return kernels.pixel_directions(chunk["poses_9F"], lens_F, middle_2, _pixel_grid(height, width, lens_F.device))


def _colour_pass(kernels, chunk, place, config):
    rays_3FP = _rays(kernels, chunk, place, config)
    depth_FP, slot_FP = nearest_hit(kernels, chunk["from_eye"], rays_3FP)
    lit_FP = torch.ones_like(depth_FP)
    if config.shadows:
        to_point_3FP = kernels.lamp_directions(chunk["eye_3F"], chunk["lamp_6F"], rays_3FP, depth_FP)
        lit_FP, _ = nearest_hit(kernels, chunk["from_lamp"], to_point_3FP)
    return shade(kernels, chunk, rays_3FP, depth_FP, slot_FP, lit_FP)


def _photograph(kernels, linear_3FP, scenes, config):
    """uint8 images (B, T, 3, H, W): auto-exposure per clip, camera effects, slight blur."""
    clips, frames, (height, width) = len(scenes), config.frames, (config.height_px, config.width_px)
    device = linear_3FP.device
    effects_B9 = torch.tensor(np.stack([s.effects_9 for s in scenes]), device=device)
    # Summed as integers: the exposure of a clip does not depend on the order of the sum.
    level_B = (linear_3FP.mean(0).reshape(clips, -1).clamp(0, 4) * 4096).to(torch.int64).sum(1)
    level_B = level_B.to(torch.float64) / 4096 / (frames * height * width)
    effects_B9[:, 0] = (effects_B9[:, 0] * 0.3 / (level_B + 0.02)).to(torch.float32)
    effects_9F = effects_B9.repeat_interleave(frames, 0).T.contiguous()
    frame_F = torch.arange(frames, device=device, dtype=torch.int32).repeat(clips)
    grid_2P = _pixel_grid(height, width, device)
    middle_2 = torch.tensor([width / 2 - 0.5, height / 2 - 0.5], device=device)
    kernel_F133 = _blur_kernels(effects_9F[7])
    images = []
    for start in range(0, clips * frames, CHUNK_FRAMES):
        part = torch.arange(start, start + CHUNK_FRAMES, device=device).clamp_max(clips * frames - 1)
        soft = _blur(linear_3FP[:, part], kernel_F133[part], height, width)
        sensor = kernels.develop(soft, effects_9F[:, part].contiguous(), frame_F[part], grid_2P, middle_2)
        images.append(sensor.round().to(torch.uint8).transpose(0, 1)[: clips * frames - start])
    return torch.cat(images).reshape(clips, frames, 3, height, width)


def _blur_kernels(blur_F):
    side_F = 0.25 * blur_F
    row_F3 = torch.stack([side_F, 1 - 2 * side_F, side_F], -1)
    return (row_F3[:, :, None] * row_F3[:, None, :])[:, None]


def _blur(linear_3FP, kernel_F133, height, width):
    frames = linear_3FP.shape[1]
    padded = F.pad(linear_3FP.reshape(3, frames, height, width), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel_F133, groups=frames).reshape(3, frames, -1).contiguous()


def _batch(scenes, config, images_BT3HW, depth_FP, ids_FP, device):
    clips, frames, height, width = len(scenes), config.frames, config.height_px, config.width_px
    poses_BT44 = np.stack([np.linalg.inv(s.room_from_camera_T44[0]) @ s.room_from_camera_T44 for s in scenes])
    poses_BT44[:, 0] = np.eye(4)
    intrinsics_B33 = np.tile(np.eye(3), (clips, 1, 1))
    intrinsics_B33[:, 0, 0] = intrinsics_B33[:, 1, 1] = [s.focal_px for s in scenes]
    intrinsics_B33[:, 0, 2], intrinsics_B33[:, 1, 2] = width / 2, height / 2
    return ClipBatch(
        images_BT3HW=images_BT3HW,
        depth_m_BTHW=depth_FP.reshape(clips, frames, height, width),
        world_from_camera_BT44=torch.tensor(poses_BT44, dtype=torch.float32, device=device),
        intrinsics_B33=torch.tensor(intrinsics_B33, dtype=torch.float32, device=device),
        instance_BTHW=ids_FP.reshape(clips, frames, height, width),
    )
