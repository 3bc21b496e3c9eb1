"""Smooth camera paths through a scene, kept clear of everything in it.

Room axes: z up, floor at z = 0, metres. Yaw is about z, pitch is positive upwards.
Shapes: C candidate paths, T frames.
"""

import numpy as np

CLEARANCE_M = 0.27
NEAR_CLEARANCE_M = 0.12  # of a camera that looks at things on a table
MODES = {
    "room": ("walk", "walk", "head", "head", "strafe", "orbit", "handheld", "rotate", "still", "drive"),
    "corridor": ("walk", "walk", "head", "drive", "drive", "handheld"),
    "hall": ("walk", "walk", "head", "head", "drive", "strafe", "rotate", "orbit", "still"),
    "tabletop": ("wrist", "wrist", "circle", "circle", "fixed"),
    "open": ("walk", "walk", "head", "drive", "drive", "orbit", "rotate", "fly", "still"),
}
_CANDIDATES = 6
_MOST_TURN_DEG_S = 110.0


def sample_path(plan, speed):
    """Mode and room-from-camera poses (T, 4, 4), or None when no candidate stays clear."""
    rng, modes = plan.rng, MODES[plan.place]
    mode = modes[rng.integers(len(modes))]
    paths = [_candidate(rng, mode, plan, speed) for _ in range(_CANDIDATES)]
    position_CT3, angles_CT3 = (np.stack(part) for part in zip(*paths, strict=True))
    least_m = CLEARANCE_M if plan.focus is None else NEAR_CLEARANCE_M
    free_C = plan.clearance(position_CT3).min(axis=1) > least_m
    free_C &= _inside(position_CT3, plan, least_m)
    turn_CT = np.abs(np.diff(np.unwrap(angles_CT3[..., 0], axis=1), axis=1, prepend=angles_CT3[:, :1, 0]))
    free_C &= turn_CT.max(axis=1) <= np.radians(_MOST_TURN_DEG_S) * _step_s(plan.times_s)
    if not free_C.any():
        return None
    best = np.argmax(np.where(free_C, _view_score(position_CT3, angles_CT3, plan), -1.0))
    return mode, pose_matrices(position_CT3[best], angles_CT3[best])


def _step_s(times_s):
    return times_s[1] - times_s[0] if len(times_s) > 1 else 1.0


def _inside(position_CT3, plan, least_m):
    """Whether a path stays within the walls and above the floor."""
    low_3, high_3 = np.array([*plan.low_2, 0.0]), np.array([*plan.high_2, plan.height_m])
    return np.minimum(position_CT3 - low_3, high_3 - position_CT3).min(axis=(1, 2)) > least_m


def _view_score(position_CT3, angles_CT3, plan):
    """Free distance ahead, capped: scenes are better seen than single surfaces. (C,)"""
    if plan.focus is not None:
        return plan.rng.random(len(position_CT3))
    yaw_CT = angles_CT3[:, ::3, 0]
    eye_CT3, heading_CT3 = position_CT3[:, ::3], np.stack([np.cos(yaw_CT), np.sin(yaw_CT), 0 * yaw_CT], -1)
    over_CT2 = 1 / (heading_CT3[..., :2] + 1e-6)
    ahead_CT2 = (np.where(over_CT2 > 0, plan.high_2, plan.low_2) - eye_CT3[..., :2]) * over_CT2
    score_C = np.minimum(ahead_CT2.min(axis=(1, 2)), 3.0)
    for reach_m in (0.7, 1.4):
        free_m_C = plan.clearance(eye_CT3 + reach_m * heading_CT3, slice(None, None, 3)).min(axis=1)
        score_C += 3 * free_m_C.clip(-0.3, 0.3)
    score_C += 0.5 * _in_view(eye_CT3[:, 0, :2], heading_CT3[:, 0, :2], plan)
    return score_C - score_C.min()


def _in_view(eye_C2, heading_C2, plan):
    """How many things lie ahead at first, at most four. (C,)"""
    if not plan.objects:
        return np.zeros(len(eye_C2))
    delta_CO2 = np.array([o.base_T3[0, :2] for o in plan.objects]) - eye_C2[:, None]
    ahead_CO = np.einsum("coi,ci->co", delta_CO2, heading_C2)
    far_CO = np.hypot(delta_CO2[..., 0], delta_CO2[..., 1])
    return ((ahead_CO > 0.8 * far_CO) & (far_CO < 8)).sum(1).clip(max=4)


def _candidate(rng, mode, plan, speed):
    """Positions (T, 3) and yaw, pitch, roll (T, 3) in radians."""
    if plan.focus is not None:
        return _around_focus(rng, mode, plan, speed)
    times_s = plan.times_s
    low_m, high_m = {"drive": (0.25, 1.3), "fly": (2.0, 9.0)}.get(mode, (0.6, 1.9))
    height_m = rng.uniform(low_m, min(high_m, plan.height_m - 0.45))
    pitch = np.radians(np.clip(rng.normal(-12, 12), -45, 15) - (25 if mode == "fly" else 0))
    roll = np.radians(np.clip(rng.normal(0, 2.5), -8, 8))
    plane_T2, yaw_T = _MOVES[mode](rng, plan, times_s, speed)
    calm = {"still": 0.1, "drive": 0.25}.get(mode, 1.0)
    angles_T3 = np.stack([yaw_T, np.full_like(yaw_T, pitch), np.full_like(yaw_T, roll)], -1)
    if mode == "head":
        angles_T3[:, 1] += _glances(rng, times_s, 12.0)
    angles_T3 += calm * speed * np.radians(wobble(rng, times_s, 3, (0.15, 0.5), (2.5, 4.0, 1.0)))
    angles_T3 += calm * np.radians(wobble(rng, times_s, 3, (1.0, 3.0), (0.3, 0.4, 0.3)))
    position_T3 = np.concatenate([plane_T2, np.full((len(times_s), 1), height_m)], -1)
    position_T3 += calm * speed * wobble(rng, times_s, 3, (0.15, 0.5), (0.08, 0.08, 0.08))
    position_T3 += calm * wobble(rng, times_s, 3, (1.0, 2.5), (0.004, 0.004, 0.006))
    return position_T3, angles_T3


def _around_focus(rng, mode, plan, speed):
    """Close to the things on a table, looking at them."""
    times_s, focus_3 = plan.times_s, np.asarray(plan.focus)
    far_m, angle, lift = rng.uniform(0.3, 1.2), rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(15, 80))
    calm = 0.05 if mode == "fixed" else speed
    turn_T = calm * (rng.uniform(-0.5, 0.5) if mode == "circle" else 0.1) * times_s
    far_T = far_m * (1 + calm * wobble(rng, times_s, 1, (0.1, 0.5), (0.25,))[:, 0])
    lift_T = np.clip(lift + calm * wobble(rng, times_s, 1, (0.1, 0.4), (0.2,))[:, 0], 0.1, 1.45)
    away_T3 = np.stack(
        [np.cos(angle + turn_T) * np.cos(lift_T), np.sin(angle + turn_T) * np.cos(lift_T), np.sin(lift_T)], -1
    )
    drift_T3 = calm * wobble(rng, times_s, 3, (0.1, 0.5), (0.15, 0.15, 0.06) if mode == "wrist" else (0.05, 0.05, 0.03))
    position_T3 = focus_3 + far_T[:, None] * away_T3 + drift_T3
    view_T3 = focus_3 + rng.normal(0, 0.06, size=3) + (0.7 if mode == "wrist" else 0.3) * drift_T3 - position_T3
    yaw_T = np.unwrap(np.arctan2(view_T3[:, 1], view_T3[:, 0]))
    pitch_T = np.arctan2(view_T3[:, 2], np.hypot(view_T3[:, 0], view_T3[:, 1]))
    roll_T = rng.normal(0, 0.08) + calm * wobble(rng, times_s, 1, (0.1, 0.5), (0.3 if mode == "wrist" else 0.05,))[:, 0]
    return position_T3, np.stack([yaw_T, pitch_T, roll_T], -1)


def wobble(rng, times_s, axes, band_hz, amplitude):
    """Sum of three random sinusoids per axis: (T, axes)."""
    frequency = rng.uniform(*band_hz, size=(3, 1, axes))
    phase = rng.uniform(0, 2 * np.pi, size=(3, 1, axes))
    weight = rng.uniform(0, 1, size=(3, 1, axes)) * np.asarray(amplitude)
    return (weight * np.sin(2 * np.pi * frequency * times_s[None, :, None] + phase)).sum(0)


def _glances(rng, times_s, most_deg):
    """Quick smooth turns of the head between moments of rest: radians (T,)."""
    angle_T, moment_s = np.zeros_like(times_s), rng.uniform(-1.0, 0.5)
    while moment_s < times_s[-1]:
        size, long_s = np.radians(rng.normal(0, most_deg)), rng.uniform(0.5, 1.2)
        share_T = np.clip((times_s - moment_s) / max(long_s, abs(size) / 1.2), 0, 1)
        angle_T = angle_T + size * share_T**3 * (10 - 15 * share_T + 6 * share_T**2)
        moment_s += long_s + rng.uniform(0.0, 1.0)
    return angle_T


def _somewhere(rng, plan, margin_m=0.5):
    margin_2 = np.minimum(margin_m, (plan.high_2 - plan.low_2) / 2)
    return rng.uniform(plan.low_2 + margin_2, plan.high_2 - margin_2)


def _lissajous(rng, plan, times_s, speed_m_s):
    """A bounded smooth wander: position and velocity, (T, 2) each."""
    half_2, middle_2 = (plan.high_2 - plan.low_2) / 2, (plan.high_2 + plan.low_2) / 2
    reach_2 = np.maximum(half_2 - 0.5, 0.2) * rng.uniform(0.5, 1.0, size=2)
    share = rng.uniform(0.15, 0.85)
    rate_2 = speed_m_s * np.array([share, 1 - share]) * rng.choice([-1, 1], size=2) * 1.3 / reach_2
    phase_T2 = rate_2 * times_s[:, None] + rng.uniform(0, 2 * np.pi, size=2)
    return middle_2 + reach_2 * np.sin(phase_T2), reach_2 * rate_2 * np.cos(phase_T2)


def _walk(rng, plan, times_s, speed):
    plane_T2, velocity_T2 = _lissajous(rng, plan, times_s, speed * rng.uniform(0.3, 1.2))
    yaw_T = np.unwrap(np.arctan2(velocity_T2[:, 1], velocity_T2[:, 0]))
    return plane_T2, yaw_T + np.radians(rng.normal(0, 20))


def _head(rng, plan, times_s, speed):
    """Walking slowly, looking around: as somebody who wears the camera."""
    plane_T2, velocity_T2 = _lissajous(rng, plan, times_s, speed * rng.uniform(0.0, 0.9))
    yaw = np.arctan2(velocity_T2[0, 1], velocity_T2[0, 0]) + rng.normal(0, 0.7)
    return plane_T2, yaw + _glances(rng, times_s, 40.0 * min(speed, 1.5))


def _drive(rng, plan, times_s, speed):
    """A wheeled robot: along a gentle bend, looking ahead."""
    pace = speed * rng.uniform(0.3, 1.6) * (2.0 if plan.place == "open" else 1.0)
    bend = rng.normal(0, 0.35)
    yaw_T = rng.uniform(0, 2 * np.pi) + bend * times_s
    step_T2 = pace * np.stack([np.cos(yaw_T), np.sin(yaw_T)], -1) * _step_s(times_s)
    plane_T2 = np.cumsum(np.concatenate([np.zeros((1, 2)), step_T2[:-1]]), 0)
    return _somewhere(rng, plan, 0.6) + plane_T2, yaw_T + rng.normal(0, 0.08)


def _strafe(rng, plan, times_s, speed):
    plane_T2, _ = _lissajous(rng, plan, times_s, speed * rng.uniform(0.2, 0.9))
    return plane_T2, rng.uniform(0, 2 * np.pi) + np.radians(rng.normal(0, 8)) * speed * times_s


def _orbit(rng, plan, times_s, speed):
    reach_m = (plan.high_2 - plan.low_2).min() / 2
    centre_2, radius_m = _somewhere(rng, plan, 0.9), rng.uniform(0.5, max(0.6, min(6.0, reach_m)))
    turn = speed * rng.uniform(0.2, 0.9) / radius_m * rng.choice([-1, 1])
    angle_T = rng.uniform(0, 2 * np.pi) + turn * times_s
    plane_T2 = centre_2 + radius_m * np.stack([np.cos(angle_T), np.sin(angle_T)], -1)
    return np.clip(plane_T2, plan.low_2 + 0.3, plan.high_2 - 0.3), angle_T + np.pi + rng.normal(0, 0.15)


def _handheld(rng, plan, times_s, speed):
    drift_T2 = wobble(rng, times_s, 2, (0.1, 0.4), (0.2 * speed, 0.2 * speed))
    yaw_T = wobble(rng, times_s, 1, (0.1, 0.4), (0.25 * speed,))[:, 0]
    return _somewhere(rng, plan) + drift_T2, rng.uniform(0, 2 * np.pi) + yaw_T


def _rotate(rng, plan, times_s, speed):
    turn = np.radians(rng.uniform(8, 40)) * speed * rng.choice([-1, 1])
    plane_T2 = np.repeat(_somewhere(rng, plan)[None], len(times_s), 0)
    return plane_T2, rng.uniform(0, 2 * np.pi) + turn * times_s


def _still(rng, plan, times_s, speed):
    plane_T2 = np.repeat(_somewhere(rng, plan)[None], len(times_s), 0)
    return plane_T2, np.full(len(times_s), rng.uniform(0, 2 * np.pi))


_MOVES = dict(walk=_walk, head=_head, drive=_drive, strafe=_strafe, orbit=_orbit, handheld=_handheld, rotate=_rotate,
              still=_still, fly=_walk)  # fmt: skip


def pose_matrices(position_T3, angles_T3):
    """Yaw, pitch, roll (radians) and position -> (T, 4, 4) room-from-camera, OpenCV camera axes."""
    yaw_T, pitch_T, roll_T = angles_T3.T
    forward_T3 = np.stack([np.cos(pitch_T) * np.cos(yaw_T), np.cos(pitch_T) * np.sin(yaw_T), np.sin(pitch_T)], -1)
    level_T3 = np.stack([np.sin(yaw_T), -np.cos(yaw_T), np.zeros_like(yaw_T)], -1)
    below_T3 = np.cross(forward_T3, level_T3)
    cos_T1, sin_T1 = np.cos(roll_T)[:, None], np.sin(roll_T)[:, None]
    poses_T44 = np.tile(np.eye(4), (len(yaw_T), 1, 1))
    poses_T44[:, :3, 0] = cos_T1 * level_T3 + sin_T1 * below_T3
    poses_T44[:, :3, 1] = cos_T1 * below_T3 - sin_T1 * level_T3
    poses_T44[:, :3, 2] = forward_T3
    poses_T44[:, :3, 3] = position_T3
    return poses_T44
