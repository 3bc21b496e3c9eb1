"""Captions, and questions with answers, from the scene graph and the camera path. numpy only.

They hold for the clip as it was rendered, not for its mirror image. What is asked about has been seen: every function
is given how many pixels each object covers in each frame. Choices are drawn so that somebody who does not see the clip
gains little: sides are swapped by the toss of a coin, the place of the right choice is random, and frequent answers
are asked for less often.

Room axes: z up. Shapes: T frames, I instance ids (0 = none), O objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from .config import ClipBatch
from .scene import Scene, SceneObject

SEEN_SHARE = 0.003  # of the picture, in the best frame: surely seen
HINT_SHARE = 0.0002  # below that it is surely not noticed; in between nothing is asked
MAX_INSTANCES = 128
VERBS = {
    "walks": "walks",
    "drives": "drives",
    "slides": "is pushed",
    "rolls": "rolls",
    "falls": "falls",
    "bounces": "bounces",
    "flies": "flies",
    "swings": "swings",
    "turns": "turns on the spot",
    "appears": "appears",
    "vanishes": "vanishes",
    "moves": "moves",
}
CAMERA_MOVES = (
    "moves forward",
    "moves backward",
    "moves to the left",
    "moves to the right",
    "turns left",
    "turns right",
    "stays where it is",
)
PLACE_WORDS = dict(
    room="a room", corridor="a corridor", hall="a hall", tabletop="a table in a room", open="open ground"
)
COUNTED = (
    "chair",
    "table",
    "desk",
    "screen",
    "plant",
    "cupboard",
    "shelf",
    "sofa",
    "box",
    "ball",
    "door",
    "window",
    "picture",
    "person",
    "car",
    "tree",
    "building",
    "bottle",
    "mug",
    "book",
    "toy",
    "stool",
    "post",
    "drum",
    "vase",
    "bowl",
    "lamp",
    "laptop",
    "bed",
    "rug",
    "pillar",
    "radiator",
)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, kw_only=True)
class Question:
    """kind: as in VSI-Bench where it asks the same. choices: empty where a number is asked for. number: the answer as
    a number in unit, None where a choice is asked for. answer: what to say."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()
    number: float | None = None
    unit: str = ""

    @property
    def prompt(self) -> str:
        """The question with its choices."""
        return f"{self.text} {' / '.join(self.choices)}" if self.choices else self.text


@dataclass(frozen=True, kw_only=True)
class Description:
    caption: str
    questions: tuple[Question, ...]


class _Seen(NamedTuple):
    """An object with what the questions need. centre_T3: middle of its box, room axes, metres."""

    thing: SceneObject
    name: str
    centre_T3: np.ndarray
    size_m_3: np.ndarray
    share_T: np.ndarray


def visible_pixels(clips: ClipBatch) -> np.ndarray:
    """Pixels of every instance id in every frame: int64 (B, T, I)."""
    ids_BTP = clips.instance_BTHW.flatten(2).long()
    count_BTI = torch.zeros(*ids_BTP.shape[:2], MAX_INSTANCES, dtype=torch.int64, device=ids_BTP.device)
    return count_BTI.scatter_add_(2, ids_BTP, torch.ones_like(ids_BTP)).cpu().numpy()


def describe_clips(seeds: Sequence[int], scenes: Sequence[Scene], clips: ClipBatch) -> tuple[Description, ...]:
    """What is said of rendered scenes; the same for the same seeds."""
    rows = zip(seeds, scenes, visible_pixels(clips), strict=True)
    return tuple(describe(scene, visible_TI, np.random.default_rng([seed, 7])) for seed, scene, visible_TI in rows)


def describe(scene: Scene, visible_TI: np.ndarray, rng: np.random.Generator) -> Description:
    """Caption and questions of one clip. visible_TI: its pixels per frame and instance id, as of visible_pixels."""
    shares_TI = visible_TI / visible_TI[0].sum()
    clip = _Clip(scene, shares_TI, rng)
    asked = [question for ask in _ASKERS for question in ask(clip)]
    return Description(caption=_caption(clip), questions=tuple(asked))


class _Clip:
    """A scene with what is seen of it."""

    def __init__(self, scene: Scene, shares_TI: np.ndarray, rng: np.random.Generator) -> None:
        self.scene, self.rng, self.shares_TI = scene, rng, shares_TI
        things = [o for o in scene.objects if o.kind != "gripper"]
        self.best = {o.instance: shares_TI[:, o.instance].max() for o in things}
        kept = [o for o in things if self.best[o.instance] >= SEEN_SHARE]
        names = _names([o for o in things if self.best[o.instance] >= HINT_SHARE])
        self.things = things
        self.seen = [_seen(scene, o, names[o.instance], shares_TI[:, o.instance]) for o in kept]
        self.named = [s for s in self.seen if s.name]
        self.still = [s for s in self.named if not s.thing.motion]

    def local(self, point_3: np.ndarray, frame: int = 0) -> np.ndarray:
        """A room point in the axes of a camera."""
        pose_44 = self.scene.room_from_camera_T44[frame]
        return (point_3 - pose_44[:3, 3]) @ pose_44[:3, :3]

    def some(self, seen: list, count: int) -> list:
        """Different ones in random order; empty when there are too few."""
        if len(seen) < count:
            return []
        return [seen[i] for i in self.rng.permutation(len(seen))[:count]]

    def choice(self, kind: str, text: str, answer: str, others: list[str]) -> Question:
        options = [answer, *others]
        return Question(
            kind=kind, text=text, answer=answer, choices=tuple(options[i] for i in self.rng.permutation(len(options)))
        )


def _seen(scene, thing, name, share_T):
    """With the middle of the box around it."""
    slots = np.flatnonzero((scene.instance_K == thing.instance) & (np.arange(len(scene.instance_K)) > 0))
    reach_TS3 = np.abs(scene.axes_TK33[:, slots] * scene.half_K3[slots][:, None, :]).sum(-1)
    low_T3 = (scene.centre_TK3[:, slots] - reach_TS3).min(1)
    high_T3 = (scene.centre_TK3[:, slots] + reach_TS3).max(1)
    size_m_3 = np.asarray(thing.size_m_3)
    return _Seen(thing=thing, name=name, centre_T3=0.5 * (low_T3 + high_T3), size_m_3=size_m_3, share_T=share_T)


def colour_name(rgb_3):
    """A word for a linear RGB colour."""
    red, green, blue = np.clip(rgb_3, 0, 1) ** (1 / 2.2)
    most, least = max(red, green, blue), min(red, green, blue)
    if most < 0.22:
        return "black"
    if most - least < 0.16 * most + 0.03:
        return "white" if most > 0.82 else "grey"
    hue = _hue_deg(red, green, blue)
    if hue < 50 and hue > 12 and most < 0.62:
        return "brown"
    edges = (15, 42, 68, 165, 195, 255, 290, 345, 361)
    words = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "red")
    return words[next(i for i, edge in enumerate(edges) if hue < edge)]


def _hue_deg(red, green, blue):
    most, least = max(red, green, blue), min(red, green, blue)
    if most == red:
        return 60 * ((green - blue) / (most - least)) % 360
    if most == green:
        return 60 * ((blue - red) / (most - least) + 2)
    return 60 * ((red - green) / (most - least) + 4)


def _names(things):
    """Instance -> "the chair", or "the red chair" among several, or "" where words do not tell one from another."""
    plain = [o.kind for o in things]
    coloured = [f"{colour_name(o.colour)} {o.kind}" if o.colour is not None else "" for o in things]
    names = {}
    for thing, word, full in zip(things, plain, coloured, strict=True):
        unsure = any(o.kind == thing.kind and o.colour is None for o in things if o is not thing)
        if plain.count(word) == 1:
            names[thing.instance] = f"the {word}"
        else:
            names[thing.instance] = f"the {full}" if full and coloured.count(full) == 1 and not unsure else ""
    return names


def _plural(word, number):
    if number == 1:
        return word
    irregular = dict(person="people", shelf="shelves", box="boxes", toy="toys", fabric="fabrics")
    return irregular.get(word, word + ("es" if word.endswith(("s", "x", "ch")) else "s"))


def _listed(words):
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _caption(clip):
    """A sentence on the place and its things, one on what moves, one on the camera."""
    scene = clip.scene
    parts = [f"{PLACE_WORDS[scene.place].capitalize()}"]
    if scene.place in ("room", "corridor", "hall"):
        parts[0] += f" of about {scene.area_m_2[0]:.0f} by {scene.area_m_2[1]:.0f} metres"
    by_size = sorted(clip.seen, key=lambda s: -s.share_T.max())
    words: dict[str, int] = {}
    for seen in by_size:
        colour = f"{colour_name(seen.thing.colour)} " if seen.thing.colour is not None else ""
        words[colour + seen.thing.kind] = words.get(colour + seen.thing.kind, 0) + 1
    things = [_counted(word, number) for word, number in list(words.items())[:7]]
    text = parts[0] + (f" with {_listed(things)}." if things else ".")
    movers = [s for s in clip.seen if s.thing.motion]
    text += "".join(f" {(s.name or 'a ' + s.thing.kind).capitalize()} {VERBS[s.thing.motion]}." for s in movers)
    return f"{text} The camera {_listed(camera_moves(scene))}."


def _counted(word, number):
    article = "an" if word[0] in "aeiou" else "a"
    kind = word.split(" ")[-1]
    return f"{article} {word}" if number == 1 else f"{_NUMBERS[min(number, 10)]} {word[: -len(kind)]}{_plural(kind, 2)}"


def camera_turn_deg(scene):
    """Heading from the first to the last frame, summed over the frames; positive to the left."""
    ahead_T3 = scene.room_from_camera_T44[:, :3, 2]
    heading_T = np.unwrap(np.arctan2(ahead_T3[:, 1], ahead_T3[:, 0]))
    return float(np.degrees(heading_T[-1] - heading_T[0]))


def camera_moves(scene):
    """Words out of CAMERA_MOVES for the way from the first to the last frame, seen from the first."""
    poses_T44 = scene.room_from_camera_T44
    way_3 = (poses_T44[-1, :3, 3] - poses_T44[0, :3, 3]) @ poses_T44[0, :3, :3]
    turn_deg, far_m = camera_turn_deg(scene), float(np.hypot(way_3[0], way_3[2]))
    moves = []
    if far_m > 0.08:
        if abs(way_3[2]) > 0.5 * far_m:
            moves.append("moves forward" if way_3[2] > 0 else "moves backward")
        if abs(way_3[0]) > 0.5 * far_m:
            moves.append("moves to the right" if way_3[0] > 0 else "moves to the left")
    if abs(turn_deg) > 5:
        moves.append("turns left" if turn_deg > 0 else "turns right")
    return moves or ["stays where it is"]


# Questions: each function yields none or more.


def _ask_count(clip):
    """How many of a kind; kinds of which something is hardly seen are left out, and single ones asked for seldom."""
    for kind in clip.some(sorted({s.thing.kind for s in clip.seen} & set(COUNTED)), 1):
        best = [clip.best[o.instance] for o in clip.things if o.kind == kind]
        number = sum(b >= SEEN_SHARE for b in best)
        unsure = any(HINT_SHARE < b < SEEN_SHARE for b in best)
        if not unsure and clip.rng.random() < (0.12, 0.6, 1.0)[min(number, 3) - 1]:
            text = f"How many {_plural(kind, 2)} are seen?"
            yield Question(kind="object_count", text=text, answer=str(number), number=float(number))


def _ask_existence(clip):
    """Whether a kind is seen, each kind as often as not: the commoner answer is asked for less often."""
    rates = _SEEN_RATE[clip.scene.place]
    for kind in clip.some(sorted(rates), 2):
        best = max((clip.best[o.instance] for o in clip.things if o.kind == kind), default=0.0)
        odds = rates[kind] / (1 - rates[kind])
        if best >= SEEN_SHARE and clip.rng.random() < 1 / odds:
            yield clip.choice("existence", f"Is a {kind} seen?", "yes", ["no"])
        if best < HINT_SHARE and clip.rng.random() < odds:
            yield clip.choice("existence", f"Is a {kind} seen?", "no", ["yes"])


# Share of clips in which a kind is seen, counted over 150 clips of each place.
_SEEN_RATE = dict(
    room=dict(
        chair=0.33,
        table=0.3,
        plant=0.24,
        cupboard=0.36,
        shelf=0.23,
        sofa=0.3,
        door=0.42,
        window=0.49,
        picture=0.46,
        toy=0.19,
        rug=0.32,
    ),
    corridor=dict(chair=0.35, plant=0.4, cupboard=0.46, shelf=0.38, box=0.27, door=0.74, window=0.38, picture=0.47),
    hall=dict(table=0.62, desk=0.8, screen=0.65, door=0.55, window=0.64, picture=0.33),
    tabletop=dict(
        table=0.69, desk=0.28, box=0.71, ball=0.67, bottle=0.46, mug=0.4, book=0.51, drum=0.67, vase=0.39, bowl=0.34
    ),
    open=dict(table=0.24, person=0.21, car=0.3, tree=0.55, building=0.45, post=0.4),
)


def _ask_size(clip):
    for seen in clip.some([s for s in clip.named if s.thing.kind not in ("robot arm", "plant", "radiator")], 1):
        longest_cm = round(100 * float(max(seen.size_m_3)))
        text = f"How long is the longest side of {seen.name}, in centimetres?"
        yield Question(kind="object_size", text=text, answer=str(longest_cm), number=float(longest_cm), unit="cm")


def _ask_distance(clip):
    for a, b in _groups(clip.some(clip.still, 2), 2):
        far_m = round(float(np.linalg.norm(a.centre_T3[0] - b.centre_T3[0])), 1)
        if far_m >= 0.2:
            text = f"How far is it from the middle of {a.name} to the middle of {b.name}, in metres?"
            yield Question(kind="absolute_distance", text=text, answer=f"{far_m:.1f}", number=far_m, unit="m")


def _ask_room_size(clip):
    if clip.scene.place in ("room", "corridor", "hall"):
        area_m2 = round(float(np.prod(clip.scene.area_m_2)))
        text = "How large is the floor of this place, in square metres?"
        yield Question(kind="room_size", text=text, answer=str(area_m2), number=float(area_m2), unit="m2")


def _ask_relative_distance(clip):
    for a, *others in _groups(clip.some(clip.still, 4), 4):
        far = [float(np.linalg.norm(a.centre_T3[0] - o.centre_T3[0])) for o in others]
        first, second = sorted(far)[:2]
        if second > 1.25 * first + 0.05:
            answer = others[int(np.argmin(far))].name
            text = f"Which is nearest to {a.name}: {_listed([o.name for o in others])}?".replace(" and ", " or ")
            yield clip.choice("relative_distance", text, answer, [o.name for o in others if o.name != answer])


def _ask_direction(clip):
    """Left, right or behind for somebody who stands at a and faces b; each side as likely, where there is such."""
    sides = ("left", "right", "behind")
    wanted = sides[clip.rng.integers(3)]
    for a, b, c in (group for _ in range(8) for group in _groups(clip.some(clip.still, 3), 3)):
        if _side(_turn_deg(a.centre_T3[0], b.centre_T3[0], c.centre_T3[0])) == wanted:
            text = f"If I stand at {a.name} and face {b.name}, is {c.name} to my left, to my right or behind me?"
            yield clip.choice("relative_direction", text, wanted, [side for side in sides if side != wanted])
            return


def _side(angle_deg):
    """Which side a direction is on, None where it is not clear."""
    if angle_deg is None or abs(angle_deg) < 20 or 125 < abs(angle_deg) < 155:
        return None
    return "behind" if abs(angle_deg) >= 155 else "left" if angle_deg > 0 else "right"


def _ask_route(clip):
    """Which way to turn at b on the way from a over b to c."""
    for a, b, c in _groups(clip.some(clip.still, 3), 3):
        first_2, second_2 = (b.centre_T3[0] - a.centre_T3[0])[:2], (c.centre_T3[0] - b.centre_T3[0])[:2]
        if min(np.linalg.norm(first_2), np.linalg.norm(second_2)) < 0.3:
            return
        turn = np.degrees(np.arctan2(first_2[0] * second_2[1] - first_2[1] * second_2[0], first_2 @ second_2))
        if 30 < abs(turn) < 150:
            side = "left" if turn > 0 else "right"
            text = f"I go from {a.name} straight to {b.name} and then to {c.name}. Which way do I turn at {b.name}?"
            yield clip.choice("route", text, side, ["right" if side == "left" else "left"])


def _turn_deg(at_3, facing_3, target_3):
    """Angle on the ground from the way to what is faced to the way to the target, positive to the left."""
    ahead_2, aside_2 = (facing_3 - at_3)[:2], (target_3 - at_3)[:2]
    if min(np.linalg.norm(ahead_2), np.linalg.norm(aside_2)) < 0.3:
        return None
    return float(np.degrees(np.arctan2(ahead_2[0] * aside_2[1] - ahead_2[1] * aside_2[0], ahead_2 @ aside_2)))


def _ask_order(clip):
    """Order of appearance of three things that are first seen in different frames."""
    sure = []
    for seen in clip.named:
        first, hint = int(np.argmax(seen.share_T >= SEEN_SHARE)), int(np.argmax(seen.share_T >= HINT_SHARE))
        if first - hint <= 2:
            sure.append((first, hint, seen.name))
    sure = [sure[i] for i in clip.rng.permutation(len(sure))]
    picked: list[tuple[int, int, str]] = []
    for shown, hinted, name in sure:
        if all(hinted > other[0] or shown < other[1] for other in picked):
            picked.append((shown, hinted, name))
    if len(picked) >= 2:
        picked = picked[:3]
        right = ", ".join(name for _, _, name in sorted(picked))
        orders = {", ".join(picked[i][2] for i in clip.rng.permutation(len(picked))) for _ in range(12)} - {right}
        yield clip.choice("appearance_order", "In which order do these first appear?", right, sorted(orders)[:3])


def _ask_sides(clip):
    """Left or right in the first picture."""
    first = [s for s in clip.named if s.share_T[0] >= SEEN_SHARE]
    for a, b in _groups(clip.some(first, 2), 2):
        place = [
            clip.scene.focal_px * p[0] / p[2] if p[2] > 0.1 else np.inf
            for p in map(clip.local, (a.centre_T3[0], b.centre_T3[0]))
        ]
        apart = abs(place[0] - place[1]) / clip.scene.focal_px
        if np.isfinite(place).all() and apart > 0.25:
            side = "left" if place[0] < place[1] else "right"
            text = f"At first, is {a.name} to the left or to the right of {b.name} in the picture?"
            yield clip.choice("left_right", text, side, ["right" if side == "left" else "left"])


def _ask_nearer(clip):
    """Which of two is nearer to the camera at first."""
    first = [s for s in clip.named if s.share_T[0] >= SEEN_SHARE]
    free = [s for s in first if s.thing.kind not in _FIXED]  # what hangs on a wall is mostly the farther one
    for a, b in _groups(clip.some(free if clip.rng.random() < 0.8 else [s for s in first if s not in free], 2), 2):
        far = [float(np.linalg.norm(clip.local(s.centre_T3[0]))) for s in (a, b)]
        least = [max(f - 0.5 * float(np.linalg.norm(s.size_m_3)), 0.0) for f, s in zip(far, (a, b), strict=True)]
        near = int(far[1] < far[0])
        if far[1 - near] > 1.3 * far[near] and least[1 - near] > least[near]:
            names = [a.name, b.name]
            text = f"Which is nearer to the camera at first, {a.name} or {b.name}?"
            yield clip.choice("nearer", text, names[near], [names[1 - near]])


_FIXED = ("door", "window", "picture", "radiator", "ceiling lamp", "building", "rug", "wall")


def _ask_camera(clip):
    """Where the camera goes and which way it turns; frequent answers are asked for less often."""
    moves, turn_deg = camera_moves(clip.scene), camera_turn_deg(clip.scene)
    ways = [move for move in moves if not move.startswith("turns")] or ["stays where it is"]
    often = {"moves forward": 0.3, "stays where it is": 0.3, "moves to the left": 0.8, "moves to the right": 0.8}
    if len(ways) == 1 and clip.rng.random() < often.get(ways[0], 1.0):
        others = clip.some([way for way in _WAYS if way != ways[0]], 3)
        yield clip.choice("camera_motion", "Where does the camera go?", ways[0], others)
    if abs(turn_deg) > 8:
        side = "left" if turn_deg > 0 else "right"
        other = "right" if side == "left" else "left"
        yield clip.choice("camera_turn_side", "Does the camera turn left or right?", side, [other])
        text = "By how many degrees does the camera turn from the first to the last picture?"
        number = float(round(abs(turn_deg)))
        yield Question(kind="camera_turn", text=text, answer=f"{number:.0f}", number=number, unit="deg")


_WAYS = [*(move for move in CAMERA_MOVES if not move.startswith("turns"))]


def _ask_motion(clip):
    """Whether something moves, as often yes as no; and how."""
    movers = [s for s in clip.named if s.thing.motion and s.thing.motion != "moves"]
    for a in clip.some(movers, 1):
        others = sorted({VERBS[v] for v in _LIKELY.get(a.thing.kind, _LIKELY["box"])} - {VERBS[a.thing.motion]})
        text = f"What happens to {a.name}?"
        if others:
            yield clip.choice("object_motion", text, VERBS[a.thing.motion], clip.some(others, min(3, len(others))))
    kinds = {s.thing.kind for s in movers}
    still = [s for s in clip.still if s.thing.kind in _LIKELY and s.thing.kind not in kinds]
    if movers and still:  # in the same clips, so that either answer is as likely
        a = clip.some(still if clip.rng.random() < 0.5 else movers, 1)[0]
        stays = "no" if a.thing.motion else "yes"
        text = f"Does {a.name} stay the same all the time?"
        yield clip.choice("moves", text, stays, ["no" if stays == "yes" else "yes"])


_LIKELY = {
    "person": ("walks", "turns"),
    "ball": ("rolls", "bounces", "falls", "flies", "swings", "appears", "vanishes"),
    "chair": ("slides", "turns"),
    "box": ("slides", "falls", "bounces", "flies", "swings", "turns", "appears", "vanishes"),
    "drum": ("slides", "falls", "bounces", "flies", "swings", "turns", "appears", "vanishes"),
    "toy": ("slides", "falls", "bounces", "flies", "swings", "turns", "appears", "vanishes"),
}


def _ask_colour(clip):
    words = (
        "red",
        "orange",
        "yellow",
        "green",
        "turquoise",
        "blue",
        "purple",
        "pink",
        "brown",
        "black",
        "white",
        "grey",
    )
    often = {"grey": 0.2, "white": 0.35, "orange": 0.4, "brown": 0.45, "green": 0.5, "black": 0.6}
    alone = [s for s in clip.named if s.thing.colour is not None and s.name == f"the {s.thing.kind}"]
    for a in clip.some(alone, 1):
        answer = colour_name(a.thing.colour)
        if clip.rng.random() < often.get(answer, 1.0):
            others = clip.some([w for w in words if w != answer], 3)
            yield clip.choice("colour", f"What colour is {a.name}?", answer, others)


def _groups(found, count):
    return [tuple(found)] if len(found) == count else []


_ASKERS = (
    _ask_count,
    _ask_existence,
    _ask_size,
    _ask_distance,
    _ask_room_size,
    _ask_relative_distance,
    _ask_direction,
    _ask_route,
    _ask_order,
    _ask_sides,
    _ask_nearer,
    _ask_camera,
    _ask_motion,
    _ask_colour,
)
