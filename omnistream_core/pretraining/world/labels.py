"""Labels made from what the rays hit: classes, normals, optical flow.

Shapes: B clips, T frames, F frames of all clips, K primitive slots, H rows, W columns, P pixels.
"""

import torch
import torch.nn.functional as F


def slot_motion(centre_FK3, room_from_unit_FK33, unit_from_room_FK33):
    """Room point of a slot in one frame -> the same surface point in the next frame of the table: (F, K, 3, 4)."""
    next_33, next_3 = room_from_unit_FK33.roll(-1, 0), centre_FK3.roll(-1, 0)
    turn_FK33 = next_33 @ unit_from_room_FK33
    shift_FK3 = next_3 - (turn_FK33 @ centre_FK3[..., None])[..., 0]
    return torch.cat([turn_FK33, shift_FK3[..., None]], -1)


def flow_to_next(points_F3P, slot_FP, motion_FK34, camera_from_room_F44, focal_F, depth_FHW, last_F, present_FK):
    """Optical flow in pixels (F, 2, H, W) and whether the point is seen in the next frame (F, H, W).

    points_F3P: hit points in the room. depth_FHW: z-depth of all frames, metres, the sky far away.
    last_F: frames without a next one.
    """
    frames, height, width = depth_FHW.shape
    index = torch.arange(frames, device=slot_FP.device)[:, None]
    slot_FP = slot_FP.long()
    moved = motion_FK34[index, slot_FP]  # F, P, 3, 4
    points_FP3 = (moved[..., :3] @ points_F3P.transpose(1, 2)[..., None])[..., 0] + moved[..., 3]
    camera_F44 = camera_from_room_F44.roll(-1, 0)
    local_FP3 = points_FP3 @ camera_F44[:, :3, :3].mT + camera_F44[:, None, :3, 3]
    depth_FP = local_FP3[..., 2]
    ahead_FP = depth_FP > 1e-2
    pixel_FP2 = local_FP3[..., :2] / depth_FP.clamp_min(1e-2)[..., None] * focal_F[:, None, None]
    pixel_FP2 = pixel_FP2 + pixel_FP2.new_tensor([width / 2, height / 2])
    grid = torch.arange(height * width, device=slot_FP.device)
    start_P2 = torch.stack([grid % width, grid // width], -1) + 0.5
    inside_FP = ((pixel_FP2 >= 0) & (pixel_FP2 < pixel_FP2.new_tensor([width, height]))).all(-1)
    there_FP = present_FK.roll(-1, 0).gather(1, slot_FP) | (slot_FP == 0)
    seen_FP = there_FP & _not_hidden(pixel_FP2, depth_FP, depth_FHW.roll(-1, 0))
    valid_FP = ahead_FP & inside_FP & seen_FP & ~last_F[:, None]
    flow_FP2 = torch.where((ahead_FP & ~last_F[:, None])[..., None], pixel_FP2 - start_P2, 0.0)
    return flow_FP2.mT.reshape(frames, 2, height, width), valid_FP.reshape(frames, height, width)


def _not_hidden(pixel_FP2, depth_FP, there_FHW):
    """Whether a point lies on what is seen around its pixel: between the least and greatest depth of 3 x 3 pixels."""
    _, height, width = there_FHW.shape
    farthest = F.max_pool2d(there_FHW[:, None], 3, 1, 1)[:, 0].flatten(1)
    nearest = -F.max_pool2d(-there_FHW[:, None], 3, 1, 1)[:, 0].flatten(1)
    column = pixel_FP2[..., 0].floor().clamp(0, width - 1).long()
    row = pixel_FP2[..., 1].floor().clamp(0, height - 1).long()
    index = row * width + column
    before_FP = depth_FP <= farthest.gather(1, index) * 1.005 + 0.005
    return before_FP & (depth_FP >= nearest.gather(1, index) * 0.995 - 0.005)
