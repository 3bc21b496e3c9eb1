"""One random scene: the record that is rendered and described, and the plan while it is being filled. numpy only.

Room axes: z up, floor at z = 0, metres.
Shapes: T frames, K primitive slots (room first, then boxes, then round bodies), N materials, M material numbers,
C light numbers, E camera effects.
"""

from dataclasses import dataclass, field

import numpy as np

from .config import CLASS_ID
from .shapes import CYLINDER, EYE, rotation_z

BOXES, ROUNDS = 79, 48
FIRST_ROUND = 1 + BOXES
SLOT_COUNT = 1 + BOXES + ROUNDS
SHELL_MATERIALS = 4  # walls, floor, ceiling, accent wall; slot k > 0 uses material k + 3


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something that can be put into a scene. Furniture faces +x; its back is at -x.

    parts: see shapes.Part. kind: name in words. label: name in CLASSES. radius_m: reach on the ground plan. depth_m:
    along x. height_m: of the whole. top_m: height of a usable top, 0 = none. colour: linear RGB that stands for it,
    None where it has no one colour.
    """

    parts: list
    kind: str
    label: str
    radius_m: float
    depth_m: float
    height_m: float
    width_m: float = 0.0
    top_m: float = 0.0
    colour: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """What is known of one object. instance: its id in the pictures. size_m_3: depth, width, height.

    base_T3: point on the ground below its middle. present_T: whether it is there. motion: a verb, "" = stays put.
    """

    instance: int
    kind: str
    label: str
    colour: np.ndarray | None
    size_m_3: tuple
    base_T3: np.ndarray
    present_T: np.ndarray
    motion: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A sampled scene. The box of slot k holds centre + axes @ (half * u) for u in [-1, 1]^3.

    light_C: main lamp (position, colour radiant at 1 m), second lamp, ambient, fog (colour, share lost per metre).
    place: one of config.PLACES. area_m_2: size of the ground that is furnished. camera_motion: name of the path.
    """

    centre_TK3: np.ndarray
    axes_TK33: np.ndarray
    half_K3: np.ndarray
    shape_K3: np.ndarray
    present_TK: np.ndarray
    instance_K: np.ndarray
    materials_NM: np.ndarray
    classes_N: np.ndarray
    light_C: np.ndarray
    room_from_camera_T44: np.ndarray
    focal_px: float
    effects_E: np.ndarray
    place: str
    area_m_2: tuple
    camera_motion: str
    times_s: np.ndarray
    objects: tuple[SceneObject, ...]


@dataclass
class Plan:
    """A scene while it is being filled. low_2, high_2: the ground that may be furnished and walked on."""

    rng: np.random.Generator
    place: str
    times_s: np.ndarray
    low_2: np.ndarray
    high_2: np.ndarray
    height_m: float
    speed: float
    materials_NM: np.ndarray
    lamps_26: np.ndarray = field(default_factory=lambda: np.zeros((2, 6)))
    ambient_3: np.ndarray = field(default_factory=lambda: np.ones(3))
    fog_4: np.ndarray = field(default_factory=lambda: np.zeros(4))
    focus: tuple | None = None  # point of a table top that the camera looks at, metres
    taken: list = field(default_factory=list)  # (x, y, radius) on the ground plan
    tops: list = field(default_factory=list)  # (x, y, reach, height) of table tops
    clutter: list = field(default_factory=list)  # (x, y, radius) of what lies on table tops
    objects: list = field(default_factory=list)
    used: dict = field(default_factory=lambda: dict(box=1, round=FIRST_ROUND))

    def __post_init__(self):
        frames = len(self.times_s)
        self.centre_TK3 = np.zeros((frames, SLOT_COUNT, 3))
        self.axes_TK33 = np.tile(EYE, (frames, SLOT_COUNT, 1, 1))
        self.half_K3 = np.ones((SLOT_COUNT, 3))
        self.shape_K3 = np.tile(np.array(CYLINDER), (SLOT_COUNT, 1))
        self.present_TK = np.zeros((frames, SLOT_COUNT), bool)
        self.instance_K = np.zeros(SLOT_COUNT, np.int64)
        self.classes_N = np.zeros(SHELL_MATERIALS + SLOT_COUNT - 1, np.int64)

    def shell(self, centre_3, half_3, labels):
        """The room itself: slot 0, seen from inside. labels: of walls, floor and ceiling."""
        self.centre_TK3[:, 0], self.half_K3[0] = centre_3, half_3
        walls, floor, ceiling = (CLASS_ID[name] for name in labels)
        self.classes_N[:SHELL_MATERIALS] = walls, floor, ceiling, walls

    def room_for(self, thing):
        """Whether there are slots left for all parts."""
        rounds = sum(part.kind == "round" for part in thing.parts)
        boxes = len(thing.parts) - rounds
        return self.used["box"] + boxes <= FIRST_ROUND and self.used["round"] + rounds <= SLOT_COUNT

    def still(self, thing, base, yaw, scenery=False):
        """Put a thing where it stays; False when there are no slots left. scenery: part of the shell, id 0."""
        frames = len(self.times_s)
        turn_T33 = np.broadcast_to(rotation_z(np.float64(yaw)), (frames, 3, 3))
        return self.add(thing, np.tile(np.asarray(base, float), (frames, 1)), turn_T33, scenery=scenery)

    def add(self, thing, base_T3, turn_T33, *, present_T=None, motion="", scenery=False):
        """Put a thing on a track: its axes in the room are turn_T33, its base point base_T3."""
        if not self.room_for(thing):
            return False
        present_T = np.ones(len(base_T3), bool) if present_T is None else present_T
        instance = 0
        if not scenery:
            instance = len(self.objects) + 1
            size_m_3 = (thing.depth_m, thing.width_m or thing.depth_m, thing.height_m)
            self.objects.append(
                SceneObject(
                    instance=instance,
                    kind=thing.kind,
                    label=thing.label,
                    colour=thing.colour,
                    size_m_3=size_m_3,
                    base_T3=base_T3,
                    present_T=present_T,
                    motion=motion,
                )
            )
        for part in thing.parts:
            slot = self.used[part.kind]
            self.used[part.kind] += 1
            self.centre_TK3[:, slot] = base_T3 + (turn_T33 @ part.centre[..., None])[..., 0]
            self.axes_TK33[:, slot] = turn_T33 @ part.axes
            self.half_K3[slot], self.shape_K3[slot] = part.half_3, part.shape_3
            self.present_TK[:, slot] = present_T
            self.materials_NM[slot + SHELL_MATERIALS - 1] = part.look
            self.classes_N[slot + SHELL_MATERIALS - 1] = CLASS_ID[thing.label]
            self.instance_K[slot] = instance
        return True

    def remove(self, instance):
        """Take an object out again; its id stays unused."""
        self.present_TK[:, (self.instance_K == instance) & (np.arange(SLOT_COUNT) > 0)] = False
        self.objects = [o for o in self.objects if o.instance != instance] if instance else self.objects

    def clearance(self, position_CT3, frames=slice(None)):
        """Distance from camera positions to all primitives' boxes at those frames, metres: (C, T)."""
        used = np.flatnonzero(self.present_TK.any(0))
        if not len(used):
            return np.full(position_CT3.shape[:2], 1e3)
        delta_CTK3 = position_CT3[:, :, None] - self.centre_TK3[frames][:, used]
        local_CTK3 = np.einsum("ctkj,tkji->ctki", delta_CTK3, self.axes_TK33[frames][:, used])
        outside_CTK3 = np.maximum(np.abs(local_CTK3) - self.half_K3[used], 0)
        gap2_CTK = np.einsum("ctki,ctki->ctk", outside_CTK3, outside_CTK3)
        gap2_CTK += 1e6 * ~self.present_TK[frames][:, used]
        return np.sqrt(gap2_CTK.min(-1))
