"""Rendering of clips in plain torch, on CPU or GPU: rays are cast tile by tile, then the picture is developed.

Work is done in chunks of tiles of fixed size, so one compilation serves every batch of every image size. Tiles that
see few things share their chunks, so that few primitives are tested for most pixels.

Shapes: B clips, T frames, F frames of all clips, K primitive slots, R tiles of a chunk, P pixels of a tile, M material
numbers, N materials of a clip, C columns of a table. Room axes: z up. Camera axes as OpenCV.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from . import cast, film, labels, shading
from .config import CLASS_ID, ClipBatch, WorldConfig
from .places import sample_scene
from .scene import Scene
from .texture import load_photos

_LIGHT = ("eye_3R", "lamp_6R", "lamp2_6R", "ambient_3R", "fog_4R", "room_6R")
# Places of the rays in a pixel: evenly spread (Roberts 2018, the plastic number's sequence), the centre first.
_SPREAD = [((0.5 + 0.7548776662 * i) % 1, (0.5 + 0.5698402910 * i) % 1) for i in range(16)]
CHUNK_TILES = {"cpu": 128, "cuda": 8192}
_LOOK_UP = (shading.surface, shading.paint, shading.paint_photos, shading.illuminate)
_KERNELS = (cast.room_key, cast.box_key, cast.round_key, cast.unpack_key, cast.pixel_directions, cast.lamp_directions,
            shading.surface, shading.paint, shading.paint_photos, shading.illuminate, film.develop)  # fmt: skip


@functools.cache
def _kernels(compiled):
    """The pointwise functions by name, as they are or each compiled."""
    if not compiled:
        return SimpleNamespace(**{fn.__name__: fn for fn in _KERNELS})
    fixed = {fn.__name__: torch.compile(fn, dynamic=False) for fn in _KERNELS}
    return SimpleNamespace(**fixed | {fn.__name__: torch.compile(fn) for fn in _LOOK_UP})


def render_clips(
    seeds: Sequence[int], config: WorldConfig, *, device: str | torch.device = "cpu", compile: bool = False
) -> ClipBatch:
    """Render one clip per seed. compile: fuse the kernels with torch.compile."""
    if len(seeds) == 0:
        raise ValueError("seeds is empty; give one integer >= 0 per clip")
    return render_scenes([sample_scene(seed, config) for seed in seeds], config, device=device, compile=compile)


def render_scenes(
    scenes: Sequence[Scene], config: WorldConfig, *, device: str | torch.device = "cpu", compile: bool = False
) -> ClipBatch:
    """Render scenes that were sampled with the same config, perhaps in other processes."""
    kernels = _kernels(bool(compile))
    tables = _Tables.of(scenes, config, torch.device(device))
    maps = _cast_all(kernels, tables, config)
    size = (config.height_px, config.width_px)
    effects_BE = torch.tensor(np.stack([s.effects_E for s in scenes]), device=device)
    drift_px_F2 = torch.tensor(np.concatenate([_drift_px(s) for s in scenes]), dtype=torch.float32, device=device)
    images_BT3HW = film.photograph(kernels, maps["linear"].flatten(2), effects_BE, drift_px_F2, size)
    return _batch(scenes, config, tables, images_BT3HW, maps)


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Numbers of all clips on the device. frame: name -> (C, F). table_CX: slots seen from the eye, side by side."""

    frame: dict[str, Tensor]
    eye_CX: Tensor
    lamp_CX: Tensor
    geometry_XC: Tensor
    materials_YM: Tensor
    centre_FK3: Tensor
    unit_from_room_FK33: Tensor
    room_from_unit_FK33: Tensor
    present_FK: Tensor
    corners_F8K3: Tensor
    instance_BK: Tensor
    classes_BN: Tensor

    @classmethod
    def of(cls, scenes: Sequence[Scene], config: WorldConfig, device: torch.device) -> "_Tables":
        def tensor(arrays, dtype=torch.float32, join=np.concatenate):
            return torch.tensor(join(arrays), dtype=dtype, device=device)

        repeat = config.frames
        centre, axes = tensor([s.centre_TK3 for s in scenes]), tensor([s.axes_TK33 for s in scenes])
        half = tensor([s.half_K3 for s in scenes], join=np.stack).repeat_interleave(repeat, 0)
        shape = tensor([s.shape_K3 for s in scenes], join=np.stack).repeat_interleave(repeat, 0)
        unit_from_room, room_from_unit = axes.mT / half[..., None], axes * half[..., None, :]
        poses_F44 = tensor([s.room_from_camera_T44 for s in scenes])
        eye = poses_F44[:, :3, 3].contiguous()
        stacked = np.stack([s.light_C for s in scenes])
        light = torch.tensor(stacked, dtype=torch.float32, device=device).repeat_interleave(repeat, 0).T
        frame = dict(
            poses_9R=poses_F44[:, :3, :3].reshape(-1, 9).T,
            eye_3R=eye.T,
            lens_R=tensor([[s.focal_px] * repeat for s in scenes])[None],
            lamp_6R=light[:6],
            lamp2_6R=light[6:12],
            ambient_3R=light[12:15],
            fog_4R=light[15:19],
            room_6R=torch.cat([centre[:, 0], half[:, 0]], -1).T,
        )
        return cls(
            frame=frame,
            eye_CX=cast.slot_table(eye, centre, unit_from_room, shape).flatten(1),
            lamp_CX=cast.slot_table(light[:3].T, centre, unit_from_room, shape).flatten(1),
            geometry_XC=_any_length(torch.cat([centre, unit_from_room.flatten(2), half, shape], -1).flatten(0, 1)),
            materials_YM=_any_length(tensor([s.materials_NM for s in scenes])),
            centre_FK3=centre,
            unit_from_room_FK33=unit_from_room,
            room_from_unit_FK33=room_from_unit,
            present_FK=tensor([s.present_TK for s in scenes], torch.bool),
            corners_F8K3=_corners(poses_F44, centre, room_from_unit),
            instance_BK=tensor([s.instance_K for s in scenes], torch.int16, np.stack),
            classes_BN=tensor([s.classes_N for s in scenes], torch.int16, np.stack),
        )


def _any_length(table_XC):
    """Batches of another size shall not compile the kernels anew."""
    torch._dynamo.mark_dynamic(table_XC, 0)
    return table_XC


def _corners(poses_F44, centre_FK3, room_from_unit_FK33):
    """Corners of every slot's box in camera axes."""
    sign_83 = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], device=centre_FK3.device)] * 3)
    offset_F8K3 = torch.einsum("fkij,cj->fcki", room_from_unit_FK33, sign_83)
    delta_F8K3 = centre_FK3[:, None] + offset_F8K3 - poses_F44[:, None, None, :3, 3]
    return torch.einsum("fcki,fij->fckj", delta_F8K3, poses_F44[:, :3, :3])


def _cast_all(kernels, tables, config):
    """Maps of all frames: linear (3, F, H, W), depth, slot, skin (F, H, W), and the normals in room axes if asked."""
    grid = (-(-config.height_px // cast.TILE_PX), -(-config.width_px // cast.TILE_PX))
    tiles = (*grid, config.height_px, config.width_px)
    seen = cast.seen_from_tiles(tables.corners_F8K3, tables.present_FK, tables.frame["lens_R"][0], tiles).flatten(0, 2)
    lists, counts = zip(*(cast.slot_lists(seen, kind) for kind in ("box", "round")), strict=True)
    order_R = torch.argsort(counts[0] + 1.6 * counts[1])
    longest_2R = torch.stack(counts)[:, order_R].cpu()
    chunk_tiles = CHUNK_TILES.get(order_R.device.type, 8192)
    if kernels is _kernels(False):
        chunk_tiles = min(chunk_tiles, len(order_R))
    maps: dict[str, Tensor] = {}
    for start in range(0, len(order_R), chunk_tiles):
        end = min(start + chunk_tiles, len(order_R))
        tile_R = order_R[torch.arange(start, start + chunk_tiles, device=order_R.device).clamp_max(end - 1)]
        chunk = _Chunk(tables, config, tile_R, grid)
        groups = cast.gather_groups(
            tables.eye_CX, chunk.start_table_R, [x[tile_R] for x in lists], longest_2R[:, start:end].amax(1).tolist()
        )
        for name, part in _render_chunk(kernels, tables, chunk, groups, config).items():
            if name not in maps:
                maps[name] = part.new_empty((*part.shape[:-2], len(order_R), part.shape[-1]))
            maps[name][..., tile_R[: end - start], :] = part[..., : end - start, :]
    return {name: _untiled(value, grid, config) for name, value in maps.items()}


def _untiled(value, grid, config):
    """(..., F * tiles, P) -> (..., F, H, W)."""
    side, lead = cast.TILE_PX, value.shape[:-2]
    value = value.reshape(*lead, -1, *grid, side, side).transpose(-3, -2)
    return value.reshape(*lead, -1, grid[0] * side, grid[1] * side)[..., : config.height_px, : config.width_px]


class _Chunk:
    """Row numbers of one chunk of tiles."""

    def __init__(self, tables: _Tables, config: WorldConfig, tile_R: Tensor, grid: tuple[int, int]) -> None:
        per_frame = grid[0] * grid[1]
        frame_R, place_R = tile_R // per_frame, tile_R % per_frame
        self.row = {name: value[..., frame_R].contiguous() for name, value in tables.frame.items()}
        self.lens_R = self.row["lens_R"][0]
        self.sharp_R = self.lens_R * math.sqrt(config.supersample)
        self.light = {name: self.row[name] for name in _LIGHT}
        self.frame_R = frame_R
        self.start_table_R = frame_R * (tables.present_FK.shape[1] + 1)
        self.start_slot_R = frame_R * tables.present_FK.shape[1]
        self.begin_R = frame_R // config.frames * tables.classes_BN.shape[1]
        corner = torch.stack([place_R % grid[1], place_R // grid[1]]) * cast.TILE_PX
        self.corner_2R = corner - torch.tensor([[config.width_px / 2], [config.height_px / 2]], device=tile_R.device)


def _render_chunk(kernels, tables, chunk, groups, config):
    """Linear colour (3, R, P), z-depth, slot, skin (R, P), perhaps normals and points (3, R, P)."""
    hit = _look(kernels, tables, chunk, groups, (0.5, 0.5))
    rays_3RP, depth_RP, slot_RP = hit
    lit_RP = _shadow(kernels, tables, chunk, rays_3RP, depth_RP) if config.shadows else torch.ones_like(depth_RP)
    spot_9RP, skin_RP = _surface(kernels, tables, chunk, hit)
    linear_3RP = _shade(kernels, tables, chunk, config, hit, (spot_9RP, skin_RP), lit_RP, torch.zeros_like(rays_3RP))
    for place in _SPREAD[1 : config.supersample]:
        hit = _look(kernels, tables, chunk, groups, place)
        around = _surface(kernels, tables, chunk, hit)
        linear_3RP = _shade(kernels, tables, chunk, config, hit, around, lit_RP, linear_3RP)
    maps = dict(linear=linear_3RP / config.supersample, depth=depth_RP, slot=slot_RP, skin=skin_RP)
    if "normals" in config.labels:
        maps["normals"] = spot_9RP[3:6]
    if "flow" in config.labels:
        maps["points"] = spot_9RP[:3]
    return maps


def _look(kernels, tables, chunk, groups, place):
    """Rays through one place in every pixel ((0.5, 0.5) is the centre) and what they hit."""
    grid_2P = cast.pixel_grid(cast.TILE_PX, cast.TILE_PX, chunk.lens_R.device)
    corner_2R = chunk.corner_2R + torch.tensor(place, device=chunk.lens_R.device)[:, None]
    rays_3RP = kernels.pixel_directions(chunk.row["poses_9R"], chunk.lens_R, corner_2R, grid_2P)
    room_CR = tables.eye_CX[:, chunk.start_table_R]
    return rays_3RP, *cast.nearest_hit(kernels, room_CR, groups, rays_3RP)


def _shadow(kernels, tables, chunk, rays_3RP, depth_RP):
    """Share of the way from the main lamp at which something is hit."""
    to_point_3RP = kernels.lamp_directions(chunk.row["eye_3R"], chunk.row["lamp_6R"], rays_3RP, depth_RP)
    lamp_R3, frame_R = chunk.row["lamp_6R"][:3].T, chunk.frame_R
    radius_RK = tables.room_from_unit_FK33[frame_R].square().sum((-1, -2)).sqrt()
    points_3RP = to_point_3RP + lamp_R3.T[:, :, None]
    mask_RK = cast.shading_slots(lamp_R3, points_3RP, tables.centre_FK3[frame_R], radius_RK, tables.present_FK[frame_R])
    lists, counts = zip(*(cast.slot_lists(mask_RK, kind) for kind in ("box", "round")), strict=True)
    longest = torch.stack(counts).amax(1).tolist()
    groups = cast.gather_groups(tables.lamp_CX, chunk.start_table_R, lists, longest)
    room_CR = tables.lamp_CX[:, chunk.start_table_R]
    return cast.nearest_hit(kernels, room_CR, groups, to_point_3RP)[0]


def _surface(kernels, tables, chunk, hit):
    """Spots (9, R, P) and material slots (R, P) of hits."""
    return kernels.surface(tables.geometry_XC, chunk.start_slot_R, chunk.row["eye_3R"], chunk.sharp_R, *hit)


def _shade(kernels, tables, chunk, config, hit, around, lit_RP, so_far_3RP):
    """Linear RGB (3, R, P), added to what other rays of the pixels brought."""
    spot_9RP, skin_RP = around
    if config.textures is None:
        colour_3RP = kernels.paint(tables.materials_YM, chunk.begin_R, spot_9RP, skin_RP)
    else:
        texels_L, count = load_photos(config.textures, str(lit_RP.device))
        colour_3RP = kernels.paint_photos(tables.materials_YM, chunk.begin_R, spot_9RP, skin_RP, texels_L, count)
    return kernels.illuminate(
        chunk.light, tables.materials_YM, chunk.begin_R, spot_9RP, skin_RP, colour_3RP, hit[0], lit_RP, so_far_3RP
    )


def _drift_px(scene):
    """How far the middle of the picture moves until the next frame, for things 2.5 m away: (T, 2) pixels."""
    poses_T44 = scene.room_from_camera_T44
    following_T44 = np.concatenate([poses_T44[1:], poses_T44[-1:]])
    ahead_T3 = poses_T44[:, :3, 3] + 2.5 * poses_T44[:, :3, 2]
    local_T3 = np.einsum("tij,ti->tj", following_T44[:, :3, :3], ahead_T3 - following_T44[:, :3, 3])
    return scene.focal_px * local_T3[:, :2] / np.maximum(local_T3[:, 2:], 0.5)


def _batch(scenes, config, tables, images_BT3HW, maps):
    clips, frames, device = len(scenes), config.frames, images_BT3HW.device
    poses_BT44 = np.stack([np.linalg.inv(s.room_from_camera_T44[0]) @ s.room_from_camera_T44 for s in scenes])
    poses_BT44[:, 0] = np.eye(4)
    intrinsics_B33 = np.tile(np.eye(3), (clips, 1, 1))
    intrinsics_B33[:, 0, 0] = intrinsics_B33[:, 1, 1] = [s.focal_px for s in scenes]
    intrinsics_B33[:, 0, 2], intrinsics_B33[:, 1, 2] = config.width_px / 2, config.height_px / 2

    def looked_up(table_BN, index_FHW):
        flat = table_BN.gather(1, index_FHW.reshape(clips, -1).long())
        return flat.reshape(clips, frames, *index_FHW.shape[-2:])

    class_BTHW = looked_up(tables.classes_BN, maps["skin"])
    depth_BTHW = maps["depth"].reshape(class_BTHW.shape)
    return ClipBatch(
        images_BT3HW=images_BT3HW,
        depth_m_BTHW=torch.where(class_BTHW == CLASS_ID["sky"], 0.0, depth_BTHW),
        world_from_camera_BT44=torch.tensor(poses_BT44, dtype=torch.float32, device=device),
        intrinsics_B33=torch.tensor(intrinsics_B33, dtype=torch.float32, device=device),
        instance_BTHW=looked_up(tables.instance_BK, maps["slot"]),
        class_BTHW=class_BTHW if "class" in config.labels else None,
        **_normals(tables, maps, class_BTHW.shape),
        **_flow(scenes, tables, maps, class_BTHW.shape),
    )


def _normals(tables, maps, shape_BTHW):
    if "normals" not in maps:
        return {}
    room_from_camera_F33 = tables.frame["poses_9R"].T.reshape(-1, 3, 3)
    normals_F3HW = torch.einsum("ifhw,fij->fjhw", maps["normals"], room_from_camera_F33)
    return dict(normals_BT3HW=normals_F3HW.reshape(*shape_BTHW[:2], 3, *shape_BTHW[2:]))


def _flow(scenes, tables, maps, shape_BTHW):
    if "points" not in maps:
        return {}
    clips, frames = shape_BTHW[:2]
    device = maps["depth"].device
    room_from_camera = np.concatenate([s.room_from_camera_T44 for s in scenes])
    flow_F2HW, valid_FHW = labels.flow_to_next(
        maps["points"].transpose(0, 1).flatten(2),
        maps["slot"].flatten(1),
        labels.slot_motion(tables.centre_FK3, tables.room_from_unit_FK33, tables.unit_from_room_FK33),
        torch.tensor(np.linalg.inv(room_from_camera), dtype=torch.float32, device=device),
        tables.frame["lens_R"][0],
        maps["depth"],
        torch.arange(clips * frames, device=device) % frames == frames - 1,
        tables.present_FK,
    )
    return dict(
        flow_BT2HW=flow_F2HW.reshape(clips, frames, 2, *shape_BTHW[2:]), flow_valid_BTHW=valid_FHW.reshape(shape_BTHW)
    )
