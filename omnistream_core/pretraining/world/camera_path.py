"""Smooth camera paths through a room, kept clear of everything in it.

Room axes: z up, floor at z = 0, corner at the origin, metres. Yaw is about z, pitch is positive upwards.
Shapes: C candidate paths, T frames, K primitive slots.
"""

import numpy as np

CLEARANCE_M = 0.27
MODES = ("walk", "walk", "strafe", "orbit", "handheld", "rotate", "still")
_CANDIDATES = 12


def sample_path(rng, room_m, clearance, times_s, rate_hz, speed):
    """Room-from-camera poses (T, 4, 4), or None when no candidate stays clear.

    clearance: function (C, T, 3), frames -> (C, T) distance to the nearest surface at those frames, metres.
    """
    mode = MODES[rng.integers(len(MODES))]
    paths = [_candidate(rng, mode, room_m, times_s, speed) for _ in range(_CANDIDATES)]
    position_CT3, angles_CT3 = (np.stack(part) for part in zip(*paths, strict=True))
    free_C = clearance(position_CT3).min(axis=1) > CLEARANCE_M
    turn_CT = np.abs(np.diff(np.unwrap(angles_CT3[..., 0], axis=1), axis=1, prepend=angles_CT3[:, :1, 0]))
    free_C &= turn_CT.max(axis=1) <= np.radians(75.0) / rate_hz
    if not free_C.any():
        return None
    best = np.argmax(np.where(free_C, _view_score(position_CT3, angles_CT3, room_m, clearance), -1.0))
    return pose_matrices(position_CT3[best], angles_CT3[best])


def _view_score(position_CT3, angles_CT3, room_m, clearance):
    """Free distance ahead, capped: rooms are better seen than single surfaces. (C,)"""
    yaw_CT = angles_CT3[:, ::3, 0]
    eye_CT3, heading_CT3 = position_CT3[:, ::3], np.stack([np.cos(yaw_CT), np.sin(yaw_CT), 0 * yaw_CT], -1)
    over_CT2 = 1 / (heading_CT3[..., :2] + 1e-6)
    ahead_CT2 = (np.where(over_CT2 > 0, room_m[:2], 0.0) - eye_CT3[..., :2]) * over_CT2
    score_C = np.minimum(ahead_CT2.min(axis=(1, 2)), 3.0)
    for reach_m in (0.7, 1.4):
        free_m_C = clearance(eye_CT3 + reach_m * heading_CT3, slice(None, None, 3)).min(axis=1)
        score_C += 3 * free_m_C.clip(-0.3, 0.3)
    return score_C - score_C.min()


def _candidate(rng, mode, room_m, times_s, speed):
    """Positions (T, 3) and yaw, pitch, roll (T, 3) in radians."""
    height_m = rng.uniform(0.5, min(1.9, room_m[2] - 0.45))
    pitch = np.radians(np.clip(rng.normal(-11, 10), -32, 12))
    roll = np.radians(np.clip(rng.normal(0, 2.5), -8, 8))
    plane_T2, yaw_T = _MOVES[mode](rng, room_m, times_s, speed)
    calm = 0.15 if mode == "still" else 1.0
    angles_T3 = np.stack([yaw_T, np.full_like(yaw_T, pitch), np.full_like(yaw_T, roll)], -1)
    angles_T3 += calm * speed * np.radians(wobble(rng, times_s, 3, (0.15, 0.5), (2.5, 4.0, 1.0)))
    angles_T3 += calm * np.radians(wobble(rng, times_s, 3, (1.0, 3.0), (0.3, 0.4, 0.3)))
    position_T3 = np.concatenate([plane_T2, np.full((len(times_s), 1), height_m)], -1)
    position_T3 += calm * speed * wobble(rng, times_s, 3, (0.15, 0.5), (0.08, 0.08, 0.08))
    position_T3 += calm * wobble(rng, times_s, 3, (1.0, 2.5), (0.004, 0.004, 0.006))
    return position_T3, angles_T3


def wobble(rng, times_s, axes, band_hz, amplitude):
    """Sum of three random sinusoids per axis: (T, axes)."""
    frequency = rng.uniform(*band_hz, size=(3, 1, axes))
    phase = rng.uniform(0, 2 * np.pi, size=(3, 1, axes))
    weight = rng.uniform(0, 1, size=(3, 1, axes)) * np.asarray(amplitude)
    return (weight * np.sin(2 * np.pi * frequency * times_s[None, :, None] + phase)).sum(0)


def _somewhere(rng, room_m, margin_m=0.5):
    margin_2 = np.minimum(margin_m, room_m[:2] / 2)
    return rng.uniform(margin_2, room_m[:2] - margin_2)


def _lissajous(rng, room_m, times_s, speed_m_s):
    """A bounded smooth wander: position and velocity, (T, 2) each."""
    reach_2 = np.maximum(room_m[:2] / 2 - 0.5, 0.2) * rng.uniform(0.5, 1.0, size=2)
    share = rng.uniform(0.15, 0.85)
    rate_2 = speed_m_s * np.array([share, 1 - share]) * rng.choice([-1, 1], size=2) * 1.3 / reach_2
    phase_T2 = rate_2 * times_s[:, None] + rng.uniform(0, 2 * np.pi, size=2)
    return room_m[:2] / 2 + reach_2 * np.sin(phase_T2), reach_2 * rate_2 * np.cos(phase_T2)


def _walk(rng, room_m, times_s, speed):
    plane_T2, velocity_T2 = _lissajous(rng, room_m, times_s, speed * rng.uniform(0.3, 1.2))
    yaw_T = np.unwrap(np.arctan2(velocity_T2[:, 1], velocity_T2[:, 0]))
    return plane_T2, yaw_T + np.radians(rng.normal(0, 20))


def _strafe(rng, room_m, times_s, speed):
    plane_T2, _ = _lissajous(rng, room_m, times_s, speed * rng.uniform(0.2, 0.9))
    return plane_T2, rng.uniform(0, 2 * np.pi) + np.radians(rng.normal(0, 8)) * speed * times_s


def _orbit(rng, room_m, times_s, speed):
    centre_2, radius_m = _somewhere(rng, room_m, 0.9), rng.uniform(0.5, min(2.5, room_m[:2].min() / 2))
    turn = speed * rng.uniform(0.2, 0.7) / radius_m * rng.choice([-1, 1])
    angle_T = rng.uniform(0, 2 * np.pi) + turn * times_s
    plane_T2 = centre_2 + radius_m * np.stack([np.cos(angle_T), np.sin(angle_T)], -1)
    return np.clip(plane_T2, 0.3, room_m[:2] - 0.3), angle_T + np.pi + rng.normal(0, 0.15)


def _handheld(rng, room_m, times_s, speed):
    drift_T2 = wobble(rng, times_s, 2, (0.1, 0.4), (0.2 * speed, 0.2 * speed))
    yaw_T = wobble(rng, times_s, 1, (0.1, 0.4), (0.25 * speed,))[:, 0]
    return _somewhere(rng, room_m) + drift_T2, rng.uniform(0, 2 * np.pi) + yaw_T


def _rotate(rng, room_m, times_s, speed):
    turn = np.radians(rng.uniform(8, 35)) * speed * rng.choice([-1, 1])
    plane_T2 = np.repeat(_somewhere(rng, room_m)[None], len(times_s), 0)
    return plane_T2, rng.uniform(0, 2 * np.pi) + turn * times_s


def _still(rng, room_m, times_s, speed):
    plane_T2 = np.repeat(_somewhere(rng, room_m)[None], len(times_s), 0)
    return plane_T2, np.full(len(times_s), rng.uniform(0, 2 * np.pi))


_MOVES = dict(walk=_walk, strafe=_strafe, orbit=_orbit, handheld=_handheld, rotate=_rotate, still=_still)


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
