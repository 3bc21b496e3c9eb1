"""Ray casting: which primitives a tile of pixels can see, and the nearest of them along every ray.

Every per-pixel function is pointwise and unrolled over a few primitive slots, so torch.compile fuses it into one
vectorised loop; run eagerly it gives the same picture.

Shapes: R tiles ("rows", of any frames), P pixels of a tile, F frames, K primitive slots (room first, then boxes, then
round bodies), C columns of a table. Rays carry z-depth or, from a lamp, the share of the way as their parameter.
"""

import functools

import torch

from .scene import FIRST_ROUND, SLOT_COUNT

TILE_PX = 16
GROUP = 4  # slots tested by one kernel; more compile slowly and run no faster
ABSENT = SLOT_COUNT  # number of the slot that no ray hits
_SLOT_BITS = 127  # room for SLOT_COUNT <= 128 in the lowest bits of a depth
_TINY = 1.3e-7  # keeps divisions finite for rays parallel to an axis
_NEAR_M = 0.02


def nearest_hit(kernels, room_CR, groups, directions_3RP):
    """Nearest surface along rays from one point per tile.

    room_CR, groups: tables seen from that point, as made by ``gather_groups``. Returns the ray parameter (float32)
    and the slot (int32), both (R, P).

    The running best is one integer: the bits of a positive float sort like the float, and the lowest bits give way
    to the slot number. So a group of slots is a single chain of minima, which fuses well; it costs 2e-5 of the depth.
    """
    best_RP = kernels.room_key(room_CR, directions_3RP)
    for kind, table_CRG, number_RG in groups:
        kernel = kernels.box_key if kind == "box" else kernels.round_key
        best_RP = kernel(best_RP, table_CRG, number_RG, directions_3RP)
    return kernels.unpack_key(best_RP)


def room_key(room_CR, directions_3RP):
    """The room seen from inside, as the first best."""
    _, far_RP = _box_span([room_CR[i, :, None] for i in range(12)], [directions_3RP[i] for i in range(3)])
    return far_RP.view(torch.int32) & ~_SLOT_BITS


def box_key(best_RP, table_CRG, number_RG, directions_3RP):
    """Best after a group of boxes."""
    directions = [directions_3RP[i] for i in range(3)]
    for k in range(GROUP):
        span = _box_span([table_CRG[i, :, k, None] for i in range(12)], directions)
        best_RP = _better(best_RP, span, number_RG[:, k, None])
    return best_RP


def round_key(best_RP, table_CRG, number_RG, directions_3RP):
    """Best after a group of round bodies."""
    directions = [directions_3RP[i] for i in range(3)]
    for k in range(GROUP):
        span = _round_span([table_CRG[i, :, k, None] for i in range(15)], directions)
        best_RP = _better(best_RP, span, number_RG[:, k, None])
    return best_RP


def unpack_key(best_RP):
    """Ray parameter and slot of a key."""
    return (best_RP & ~_SLOT_BITS).view(torch.float32), best_RP & _SLOT_BITS


def _better(best_RP, span, number):
    near_RP, far_RP = span
    near_RP = torch.where((near_RP < far_RP) & (near_RP > 0), near_RP, 1e6)
    return torch.minimum(best_RP, (near_RP.view(torch.int32) & ~_SLOT_BITS) | number)


def _unit_ray(row, directions):
    """Origin and direction in unit coordinates."""
    dx, dy, dz = directions
    turned = [row[3 + 3 * i] * dx + row[4 + 3 * i] * dy + row[5 + 3 * i] * dz + _TINY for i in range(3)]
    return row[:3], turned


def _box_span(row, directions):
    """Ray parameters between which the ray is in the unit box."""
    (ox, oy, oz), (dx, dy, dz) = _unit_ray(row, directions)
    over_xy = 1.0 / (dx * dy)
    over_x, over_y, over_z = dy * over_xy, dx * over_xy, 1.0 / dz
    half_x, half_y, half_z = over_x.abs(), over_y.abs(), over_z.abs()
    mid_x, mid_y, mid_z = ox * over_x, oy * over_y, oz * over_z
    near = torch.maximum(torch.maximum(-mid_x - half_x, -mid_y - half_y), -mid_z - half_z)
    far = torch.minimum(torch.minimum(half_x - mid_x, half_y - mid_y), half_z - mid_z)
    return near, far


def _round_span(row, directions):
    """First stretch of the ray in a round body.

    The quadratic is written about its vertex, a (t - middle)^2 + bottom: no cancellation far away.
    """
    (ox, oy, oz), (dx, dy, dz) = _unit_ray(row, directions)
    c2, c1, c0 = row[12:]
    a = dx * dx + dy * dy + c2 * (dz * dz)
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    over = 1.0 / (a * dz)
    over_a, over_z = dz * over, a * over
    middle = -(ox * dx + oy * dy + (c2 * oz + 0.5 * c1) * dz) * over_a
    px, py, pz = ox + middle * dx, oy + middle * dy, oz + middle * dz
    room = -(px * px + py * py + (c2 * pz + c1) * pz + c0) * over_a
    half = torch.sqrt(room.clamp_min(0))
    low, high = middle - half, middle + half
    middle_z, half_z = -oz * over_z, over_z.abs()
    enter, leave = middle_z - half_z, middle_z + half_z
    near, far = torch.maximum(enter, low), torch.minimum(leave, high)
    far = torch.where(room < 0, near, far)
    # A cone or waist seen steeply: the ray is inside before low and after high, or all along.
    before = (room < 0) | ((low > enter) & (enter > 0))
    steep_near = torch.where(before, enter, torch.maximum(enter, high))
    steep_far = torch.where(before & (room >= 0), torch.minimum(leave, low), leave)
    return torch.where(a < 0, steep_near, near), torch.where(a < 0, steep_far, far)


def slot_table(origin_F3, centre_FK3, unit_from_room_FK33, shape_FK3):
    """What a ray from a point needs to know of every slot, and of one that it never hits: (C, F, K + 1).

    Columns: origin in unit coordinates (3), unit_from_room (9), c2, c1, c0 of round bodies.
    """
    local_FK3 = (unit_from_room_FK33 @ (origin_F3[:, None] - centre_FK3)[..., None])[..., 0]
    table_FKC = torch.cat([local_FK3, unit_from_room_FK33.flatten(2), shape_FK3], -1)
    never_C = table_FKC.new_tensor([1e4, 1e4, 1e4, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, -1])
    never_F1C = never_C.expand(len(table_FKC), 1, -1)
    return torch.cat([table_FKC, never_F1C], 1).permute(2, 0, 1).contiguous()


def seen_from_tiles(corners_F8K3, present_FK, focal_F, tiles):
    """Which slots may be seen in a tile: bool (F, tiles_y, tiles_x, K).

    corners_F8K3: corners of every slot's box in camera axes, metres. The rectangle around the corners' images bounds
    the slot; one that reaches behind the camera is kept everywhere.
    """
    rows, columns, height, width = tiles
    depth_F8K = corners_F8K3[..., 2]
    behind_FK = depth_F8K.amin(1) < _NEAR_M
    scale_F8K = focal_F[:, None, None] / depth_F8K.clamp_min(_NEAR_M)
    x_F8K = corners_F8K3[..., 0] * scale_F8K + width / 2
    y_F8K = corners_F8K3[..., 1] * scale_F8K + height / 2
    low_x, high_x, low_y, high_y = x_F8K.amin(1), x_F8K.amax(1), y_F8K.amin(1), y_F8K.amax(1)
    left_X = TILE_PX * torch.arange(columns, device=focal_F.device)
    top_Y = TILE_PX * torch.arange(rows, device=focal_F.device)
    meets_FXK = _meets(left_X, low_x, high_x) | behind_FK[:, None]
    meets_FYK = _meets(top_Y, low_y, high_y) | behind_FK[:, None]
    kept_FK = present_FK & (depth_F8K.amax(1) > _NEAR_M)
    return meets_FYK[:, :, None] & meets_FXK[:, None] & kept_FK[:, None, None]


def _meets(start_X, low_FK, high_FK):
    return (low_FK[:, None] < start_X[:, None] + TILE_PX + 1) & (high_FK[:, None] > start_X[:, None] - 1)


def shading_slots(lamp_R3, points_3RP, centre_RK3, radius_RK, present_RK):
    """Which slots may stand between a lamp and the points of a tile: bool (R, K).

    A slot's bounding sphere is tested against the cone from the lamp around the sphere that bounds the points.
    """
    low_R3, high_R3 = points_3RP.amin(2).T, points_3RP.amax(2).T
    reach_R = 0.5 * (high_R3 - low_R3).norm(dim=-1)
    axis_R3 = 0.5 * (low_R3 + high_R3) - lamp_R3
    to_slot_RK3 = centre_RK3 - lamp_R3[:, None]
    length2_R1 = (axis_R3 * axis_R3).sum(-1, keepdim=True).clamp_min(1e-6)
    share_RK = ((to_slot_RK3 * axis_R3[:, None]).sum(-1) / length2_R1).clamp(0, 1)
    gap_RK = (to_slot_RK3 - share_RK[..., None] * axis_R3[:, None]).norm(dim=-1)
    widest_RK = (share_RK + (radius_RK + reach_R[:, None]) / length2_R1.sqrt()).clamp_max(1.0) * reach_R[:, None]
    return present_RK & (gap_RK <= 1.02 * (radius_RK + widest_RK))


def slot_lists(mask_RK, kind):
    """Numbers of the kept slots of one kind, in order, filled up with ABSENT: int64 (R, n), and how many (R,)."""
    span = slice(1, FIRST_ROUND) if kind == "box" else slice(FIRST_ROUND, SLOT_COUNT)
    mask_RK = mask_RK[:, span]
    place_RK = mask_RK.cumsum(1) - 1
    count_R = place_RK[:, -1] + 1
    room = mask_RK.shape[1]
    list_RN = torch.full((len(mask_RK), room + 1), ABSENT, device=mask_RK.device)
    number_K = torch.arange(span.start, span.stop, device=mask_RK.device).expand_as(mask_RK)
    list_RN.scatter_(1, torch.where(mask_RK, place_RK, room), torch.where(mask_RK, number_K, ABSENT))
    return list_RN[:, :room], count_R


def gather_groups(table_CX, start_R, lists, counts):
    """Tables of the listed slots in groups of fixed size: list of (kind, (C, R, GROUP), numbers (R, GROUP)).

    table_CX: tables of all frames side by side; start_R: where a tile's frame begins in it. counts: longest list.
    """
    groups = []
    for kind, list_RN, longest in zip(("box", "round"), lists, counts, strict=True):
        for first in range(0, longest, GROUP):
            number_RG = _padded(list_RN[:, first : first + GROUP])
            table_CRG = table_CX[:, start_R[:, None] + number_RG]
            groups.append((kind, table_CRG, (number_RG % ABSENT).to(torch.int32)))
    return groups


def _padded(number_RG):
    missing = GROUP - number_RG.shape[1]
    return torch.nn.functional.pad(number_RG, (0, missing), value=ABSENT) if missing else number_RG


@functools.lru_cache(maxsize=8)
def pixel_grid(height_px, width_px, device):
    """Column and row of every pixel: int32 (2, P)."""
    index_P = torch.arange(height_px * width_px, device=device)
    return torch.stack([index_P % width_px, index_P // width_px]).to(torch.int32)


def pixel_directions(poses_9R, lens_R, corner_2R, grid_2P):
    """Room-frame ray directions (3, R, P) whose parameter is z-depth.

    corner_2R: first pixel of the tile, and the place in it, less the principal point.
    """
    x_RP = (grid_2P[0] + corner_2R[0, :, None]) / lens_R[:, None]
    y_RP = (grid_2P[1] + corner_2R[1, :, None]) / lens_R[:, None]
    r = [poses_9R[i, :, None] for i in range(9)]
    return torch.stack([r[3 * i] * x_RP + r[3 * i + 1] * y_RP + r[3 * i + 2] for i in range(3)])


def lamp_directions(eye_3R, lamp_6R, directions_3RP, depth_RP):
    """From the main lamp to each hit point: (3, R, P)."""
    return (eye_3R - lamp_6R[:3])[:, :, None] + directions_3RP * depth_RP
