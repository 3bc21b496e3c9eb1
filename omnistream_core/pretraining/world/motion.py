"""How things move: tracks of base point and turn, with the verb that says it. Metres, seconds, radians.

Shapes: T frames.
"""

import numpy as np

from .shapes import axes_along, rotation_z

GRAVITY_M_S2 = 9.81


def sample_track(rng, thing, low_2, high_2, height_m, times_s, speed):
    """(verb, base_T3, turn_T33, present_T) of a thing that moves within a rectangle of the ground."""
    choices = _STYLES.get(thing.kind, _ANY)
    verb = choices[rng.integers(len(choices))]
    edge_2 = np.minimum(thing.radius_m + 0.1, (high_2 - low_2) / 2 - 0.05)
    start_2 = rng.uniform(low_2 + edge_2, high_2 - edge_2)
    base_T3, turn_T33, present_T = _TRACKS[verb](rng, thing, start_2, height_m, times_s, speed)
    base_T3[:, :2] = _fold(base_T3[:, :2], low_2 + edge_2, high_2 - edge_2)
    return verb, base_T3, turn_T33, present_T


def _level(times_s, start_2):
    base_T3 = np.zeros((len(times_s), 3))
    base_T3[:, :2] = start_2
    return base_T3


def _heading(rng):
    angle = rng.uniform(0, 2 * np.pi)
    return angle, np.array([np.cos(angle), np.sin(angle)])


def _always(times_s):
    return np.ones(len(times_s), bool)


def _turned(rng, times_s, rate=0.0):
    return rotation_z(rng.uniform(0, 2 * np.pi) + rate * times_s)


def _walks(rng, thing, start_2, height_m, times_s, speed):
    angle, ahead_2 = _heading(rng)
    pace = speed * (rng.uniform(1.0, 6.0) if thing.kind == "car" else rng.uniform(0.3, 1.3))
    base_T3 = _level(times_s, start_2)
    base_T3[:, :2] += pace * times_s[:, None] * ahead_2
    return base_T3, rotation_z(np.full(len(times_s), angle)), _always(times_s)


def _pushed(rng, thing, start_2, height_m, times_s, speed):
    """At rest, then pushed, then slowed by friction."""
    _, ahead_2 = _heading(rng)
    begin_s, fade_s = rng.uniform(-0.3, 0.5) * times_s[-1], rng.uniform(0.3, 1.2)
    after_T = np.maximum(times_s - begin_s, 0)
    way_T = speed * rng.uniform(0.4, 1.6) * fade_s * (1 - np.exp(-after_T / fade_s))
    base_T3 = _level(times_s, start_2)
    base_T3[:, :2] += way_T[:, None] * ahead_2
    turn_T33 = rotation_z(rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.6) * way_T)
    return base_T3, turn_T33, _always(times_s)


def _rolls(rng, thing, start_2, height_m, times_s, speed):
    """Without slip: turned by the way over the radius about the level axis across it."""
    angle, ahead_2 = _heading(rng)
    radius_m = 0.5 * thing.height_m
    way_T = speed * rng.uniform(0.3, 1.4) * times_s
    c, s = np.cos(way_T / radius_m), np.sin(way_T / radius_m)
    zero, one = np.zeros_like(c), np.ones_like(c)
    spin_T33 = np.stack([np.stack([c, zero, s], -1), np.stack([zero, one, zero], -1), np.stack([-s, zero, c], -1)], -2)
    along_33 = rotation_z(np.float64(angle))
    turn_T33 = along_33 @ spin_T33 @ along_33.T
    middle_3 = np.array([0, 0, radius_m])
    base_T3 = _level(times_s, start_2)
    base_T3[:, :2] += way_T[:, None] * ahead_2
    return base_T3 + middle_3 - turn_T33 @ middle_3, turn_T33, _always(times_s)


def _falls(rng, thing, start_2, height_m, times_s, speed):
    """Let go at some moment, bounces a little."""
    top_m = rng.uniform(0.3, max(0.4, min(height_m - thing.height_m - 0.2, 2.2)))
    after_T = np.maximum(times_s - rng.uniform(-0.4, 0.5) * max(times_s[-1], 0.3), 0)
    base_T3 = _level(times_s, start_2)
    base_T3[:, 2] = _bounce(after_T, top_m, rng.uniform(0.2, 0.6))
    return base_T3, _turned(rng, times_s), _always(times_s)


def _bounces(rng, thing, start_2, height_m, times_s, speed):
    _, ahead_2 = _heading(rng)
    top_m = rng.uniform(0.2, max(0.3, min(height_m - thing.height_m - 0.2, 1.2)))
    period_s = 2 * np.sqrt(2 * top_m / GRAVITY_M_S2)
    phase_T = (times_s / period_s + rng.random()) % 1
    base_T3 = _level(times_s, start_2)
    base_T3[:, :2] += speed * rng.uniform(0.1, 0.8) * times_s[:, None] * ahead_2
    base_T3[:, 2] = top_m * 4 * phase_T * (1 - phase_T)
    return base_T3, _turned(rng, times_s, rng.normal(0, 1.0)), _always(times_s)


def _bounce(after_T, top_m, kept):
    """Height of a thing dropped from top_m; kept: share of the speed after each bounce."""
    hit_s = np.sqrt(2 * top_m / GRAVITY_M_S2)
    height_T = top_m - 0.5 * GRAVITY_M_S2 * after_T**2
    rise_m_s, begin_s = GRAVITY_M_S2 * hit_s * kept, hit_s
    for _ in range(3):
        rest_T = after_T - begin_s
        height_T = np.where(rest_T > 0, rise_m_s * rest_T - 0.5 * GRAVITY_M_S2 * rest_T**2, height_T)
        begin_s, rise_m_s = begin_s + 2 * rise_m_s / GRAVITY_M_S2, rise_m_s * kept
    return np.where(after_T > begin_s, 0.0, np.maximum(height_T, 0.0))


def _flies(rng, thing, start_2, height_m, times_s, speed):
    _, ahead_2 = _heading(rng)
    level_m = rng.uniform(0.4, max(0.5, min(height_m - thing.height_m - 0.3, 2.5)))
    base_T3 = _level(times_s, start_2)
    base_T3[:, :2] += speed * rng.uniform(0.2, 1.2) * times_s[:, None] * ahead_2
    base_T3[:, 2] = np.maximum(level_m + 0.2 * np.sin(rng.uniform(0.5, 2) * speed * times_s + rng.uniform(0, 6)), 0.05)
    return base_T3, _turned(rng, times_s, speed * rng.normal(0, 0.7)), _always(times_s)


def _swings(rng, thing, start_2, height_m, times_s, speed):
    """A pendulum of 1 to 2 m."""
    _, ahead_2 = _heading(rng)
    long_m = rng.uniform(0.8, 1.6)
    swing_T = rng.uniform(0.2, 0.7) * np.sin(np.sqrt(GRAVITY_M_S2 / long_m) * times_s + rng.uniform(0, 6))
    base_T3 = _level(times_s, start_2)
    base_T3[:, :2] += long_m * np.sin(swing_T)[:, None] * ahead_2
    base_T3[:, 2] = 0.2 + long_m * (1 - np.cos(swing_T))
    up_T3 = np.stack([-np.sin(swing_T) * ahead_2[0], -np.sin(swing_T) * ahead_2[1], np.cos(swing_T)], -1)
    return base_T3, axes_along(up_T3), _always(times_s)


def _spins(rng, thing, start_2, height_m, times_s, speed):
    return (
        _level(times_s, start_2),
        _turned(rng, times_s, speed * rng.uniform(0.5, 2) * rng.choice((-1, 1))),
        _always(times_s),
    )


def _appears(rng, thing, start_2, height_m, times_s, speed):
    base_T3, turn_T33, _ = _spins(rng, thing, start_2, height_m, times_s, 0.0)
    return base_T3, turn_T33, times_s >= rng.uniform(0.2, 0.8) * times_s[-1]


def _vanishes(rng, thing, start_2, height_m, times_s, speed):
    base_T3, turn_T33, _ = _spins(rng, thing, start_2, height_m, times_s, 0.0)
    return base_T3, turn_T33, times_s <= rng.uniform(0.2, 0.8) * times_s[-1]


_TRACKS = dict(walks=_walks, drives=_walks, slides=_pushed, rolls=_rolls, falls=_falls, bounces=_bounces, flies=_flies,
               swings=_swings, turns=_spins, appears=_appears, vanishes=_vanishes)  # fmt: skip
_STYLES = {
    "person": ("walks", "walks", "walks", "turns"),
    "car": ("drives",),
    "ball": ("rolls", "rolls", "bounces", "falls", "flies", "swings", "appears", "vanishes"),
    "chair": ("slides", "turns", "slides"),
}
_ANY = ("slides", "slides", "falls", "bounces", "flies", "swings", "turns", "appears", "vanishes")


def _fold(value_T2, low_2, high_2):
    """Reflect at the walls."""
    span_2 = np.maximum(high_2 - low_2, 1e-3)
    return low_2 + span_2 - np.abs((value_T2 - low_2) % (2 * span_2) - span_2)
