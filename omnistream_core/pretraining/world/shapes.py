"""Primitives: affine images of the unit box and of round bodies between z = -1 and z = 1.

A round body is x^2 + y^2 + c2 z^2 + c1 z + c0 <= 0 in unit coordinates, cut off at |z| = 1: ball, cylinder, cone,
barrel, bowl and waist are all of this form.
"""

from dataclasses import dataclass, field

import numpy as np

EYE = np.eye(3)
BALL = (1.0, 0.0, -1.0)
CYLINDER = (0.0, 0.0, -1.0)
BOWL = (0.0, -0.5, -0.5)  # a paraboloid, pointed below


@dataclass(frozen=True, kw_only=True)
class Part:
    """One primitive of a thing, in the thing's axes: z up, base point on the ground, metres.

    kind: box or round. centre: (3,) or (T, 3). axes: rotation, columns are the part's own axes, (3, 3) or (T, 3, 3).
    half_3: half size along them. shape_3: c2, c1, c0 of a round body. look: material row.
    """

    kind: str
    centre: np.ndarray
    half_3: tuple
    look: np.ndarray
    axes: np.ndarray = field(default_factory=lambda: EYE)
    shape_3: tuple = CYLINDER


def box(centre, size, look, axes=EYE):
    """size: full lengths."""
    return Part(kind="box", centre=np.array(centre, float), half_3=tuple(0.5 * s for s in size), look=look, axes=axes)


def ball(centre, half_3, look, axes=EYE):
    """Ellipsoid."""
    return Part(kind="round", centre=np.array(centre, float), half_3=half_3, look=look, axes=axes, shape_3=BALL)


def upright(x, y, low, high, radius, look, shape_3=CYLINDER):
    """Upright round body from height low to height high."""
    half_3 = (radius, radius, 0.5 * (high - low))
    return Part(kind="round", centre=np.array([x, y, 0.5 * (low + high)]), half_3=half_3, look=look, shape_3=shape_3)


def rod(a, b, radius, look, shape_3=CYLINDER):
    """Round body from point a to point b, each (3,) or (T, 3); the length is that of the first frame."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    length = float(np.sqrt((np.reshape(b - a, (-1, 3))[0] ** 2).sum()))
    return Part(kind="round", centre=0.5 * (a + b), half_3=(radius, radius, 0.5 * length), look=look,
                axes=axes_along(b - a), shape_3=shape_3)  # fmt: skip


def tapered(below, above):
    """Cone with radii below and above, in units of the larger one."""
    slope, middle = 0.5 * (above - below), 0.5 * (above + below)
    largest = max(below, above)
    return (-((slope / largest) ** 2), -2 * slope * middle / largest**2, -((middle / largest) ** 2))


def barrel(bulge):
    """0 is a cylinder, 1 a ball."""
    return (bulge, 0.0, -1.0)


def waisted(share):
    """Thinner at its middle: share of the squared radius that is missing there."""
    return (-share, 0.0, share - 1.0)


def rotation_z(angle):
    """Rotation about z: (..., 3, 3) of angles (...)."""
    cos, sin = np.cos(angle), np.sin(angle)
    axes = np.zeros((*np.shape(angle), 3, 3))
    axes[..., 0, 0], axes[..., 0, 1], axes[..., 1, 0], axes[..., 1, 1], axes[..., 2, 2] = cos, -sin, sin, cos, 1.0
    return axes


def rotation_y(angle):
    """Rotation about y: (..., 3, 3)."""
    cos, sin = np.cos(angle), np.sin(angle)
    axes = np.zeros((*np.shape(angle), 3, 3))
    axes[..., 0, 0], axes[..., 0, 2], axes[..., 2, 0], axes[..., 2, 2], axes[..., 1, 1] = cos, sin, -sin, cos, 1.0
    return axes


def axes_along(direction):
    """A rotation (..., 3, 3) whose z axis points along direction (..., 3).

    Without branches except at straight down (Duff et al. 2017, Building an orthonormal basis, revisited).
    """
    x, y, z = np.moveaxis(direction / (np.sqrt((direction * direction).sum(-1, keepdims=True)) + 1e-12), -1, 0)
    sign = np.where(z < 0, -1.0, 1.0)
    a = -1.0 / (sign + z)
    axes = np.empty((*np.shape(x), 3, 3))
    axes[..., 0, 0], axes[..., 1, 0], axes[..., 2, 0] = 1 + sign * x * x * a, sign * x * y * a, -sign * x
    axes[..., 0, 1], axes[..., 1, 1], axes[..., 2, 1] = x * y * a, sign + y * y * a, -y
    axes[..., 0, 2], axes[..., 1, 2], axes[..., 2, 2] = x, y, z
    return axes


def tilted(rng, most_rad):
    """A random rotation by up to most_rad away from upright, about a random level axis, after a random turn."""
    turn = rotation_z(2 * np.pi * rng.random())
    return turn @ rotation_y(most_rad * rng.random()) @ rotation_z(2 * np.pi * rng.random())
