"""Words about a clip, made from its scene: a caption, and questions with answers of the kinds that VSI-Bench asks.

Only what is seen is told of: an object counts from its first frame with enough pixels on. Objects are named by their
kind, with their colour where the kind alone would not say which one is meant; those that no name tells apart are only
counted.

Shapes: T frames, H rows, W columns. Positions in metres; the first camera's axes are OpenCV's (x right, y down, z
ahead).
Source of the kinds of questions and of their units: Yang et al. 2025, "Thinking in Space" (VSI-Bench).
"""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .config import ClipBatch
from .scene import Scene, SceneObject

LEAST_SHARE = 0.003  # of a frame's pixels, from which on an object is seen
TURN_DEG, STILL_DEG = 12.0, 4.0  # a turn from here on; none below
MOVE_M, STILL_M = 0.2, 0.07  # a move from here on; none below
NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
INDOORS = ("room", "corridor", "hall")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its one right answer.

    Attributes:
        kind: see ``KINDS``.
        text: the question.
        answer: what to say, word for word.
        choices: of a multiple-choice question, the answer among them; empty for a number.
        number: value of a numeric answer; None else.
        unit: of the number: ``m``, ``cm``, ``m2`` or "" for a count.
    """

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
    """What is said of a clip."""

    caption: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """An object that is seen. first_frame: where it is first. middle_T3: its middle in the first camera's axes."""

    thing: SceneObject
    name: str
    unique: bool
    first_frame: int
    at_start: bool
    middle_T3: np.ndarray

    @property
    def still(self) -> bool:
        return self.thing.motion == "" and bool(self.thing.present_T.all())

    @property
    def the(self) -> str:
        return f"the {self.name}"


@dataclass(frozen=True, kw_only=True)
class _View:
    """What the questions are made from."""

    scene: Scene
    seen: tuple[_Seen, ...]
    poses_T44: np.ndarray  # first camera from camera
    rng: np.random.Generator

    @property
    def named(self) -> list[_Seen]:
        return [s for s in self.seen if s.unique]

    @property
    def still(self) -> list[_Seen]:
        return [s for s in self.named if s.still]

    def pair(self, things: Sequence[_Seen], fits: Callable[[_Seen, _Seen], bool]) -> tuple[_Seen, _Seen] | None:
        """Two of them that fit, in a random order; None where there are none."""
        pairs = [p for p in combinations(things, 2) if fits(*p)]
        if not pairs:
            return None
        one, other = pairs[self.rng.integers(len(pairs))]
        return (one, other) if self.rng.random() < 0.5 else (other, one)

    def shuffled(self, *choices: str) -> tuple[str, ...]:
        return tuple(self.rng.permutation(choices).tolist())


def describe_clips(seeds: Sequence[int], scenes: Sequence[Scene], clips: ClipBatch) -> tuple[Description, ...]:
    """What is said of rendered scenes; the same for the same seeds."""
    instances = clips.instance_BTHW.cpu().numpy()
    return tuple(
        describe(scene, instances[b], np.random.default_rng([seed, 7]))
        for b, (seed, scene) in enumerate(zip(seeds, scenes, strict=True))
    )


def describe(scene: Scene, instance_THW: np.ndarray, rng: np.random.Generator) -> Description:
    """Caption and questions of one clip.

    Args:
        instance_THW: which object each pixel shows, as rendered.
        rng: decides what is asked, never what is true.
    """
    view = _view(scene, instance_THW, rng)
    questions = [question for ask in _ASKERS for question in ask(view)]
    return Description(caption=_caption(view), questions=tuple(questions))


# ---- what is seen ----


def _view(scene: Scene, instance_THW: np.ndarray, rng: np.random.Generator) -> _View:
    poses_T44 = np.linalg.inv(scene.room_from_camera_T44[0]) @ scene.room_from_camera_T44
    camera_from_room_44 = np.linalg.inv(scene.room_from_camera_T44[0])
    share_TI = _shares(instance_THW, max((o.instance for o in scene.objects), default=0))
    visible = [o for o in scene.objects if o.label != "robot" and (share_TI[:, o.instance] >= LEAST_SHARE).any()]
    names = _names(visible)
    seen = []
    for thing, (name, unique) in zip(visible, names, strict=True):
        frames = np.flatnonzero(share_TI[:, thing.instance] >= LEAST_SHARE)
        middle_T3 = thing.base_T3 + np.array([0, 0, thing.size_m_3[2] / 2])
        seen.append(
            _Seen(
                thing=thing,
                name=name,
                unique=unique,
                first_frame=int(frames[0]),
                at_start=bool(frames[0] == 0),
                middle_T3=middle_T3 @ camera_from_room_44[:3, :3].T + camera_from_room_44[:3, 3],
            )
        )
    return _View(scene=scene, seen=tuple(seen), poses_T44=poses_T44, rng=rng)


def _shares(instance_THW: np.ndarray, most: int) -> np.ndarray:
    """(T, most + 1) share of the frame's pixels that each object covers."""
    frames = [np.bincount(i.ravel(), minlength=most + 1)[: most + 1] / i.size for i in instance_THW]
    return np.stack(frames)


def _names(things: Sequence[SceneObject]) -> list[tuple[str, bool]]:
    """A name for each, and whether it says which one is meant."""
    kinds = Counter(t.kind for t in things)
    coloured = [f"{colour_name(t.colour)} {t.kind}" if t.colour is not None else t.kind for t in things]
    counts = Counter(coloured)
    return [
        (t.kind, True) if kinds[t.kind] == 1 else (name, counts[name] == 1 and name != t.kind)
        for t, name in zip(things, coloured, strict=True)
    ]


def colour_name(linear_rgb_3: np.ndarray) -> str:
    """Everyday name of a linear RGB colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(*np.clip(np.asarray(linear_rgb_3, float), 0, 1) ** (1 / 2.2))
    if value < 0.22:
        return "black"
    if saturation < 0.18:
        return "white" if value > 0.8 else "grey"
    if 15 / 360 <= hue < 45 / 360 and value < 0.65:
        return "brown"
    return next((name for bound_deg, name in _HUES if hue * 360 < bound_deg), "red")


_HUES = ((15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (255, "blue"), (290, "purple"), (345, "pink"))


# ---- the caption ----


def _caption(view: _View) -> str:
    counts = Counter(s.thing.kind for s in view.seen if s.thing.label != "robot")
    things = _listed([_counted(kind, number) for kind, number in counts.most_common(6)])
    place = {"open": "An open place", "tabletop": "A table top"}.get(view.scene.place, f"A {view.scene.place}")
    sentences = [f"{place} with {things}." if things else f"{place}."]
    moving = [s for s in view.seen if s.thing.motion]
    sentences += [f"{_capital(_article(s.name) if s.unique else 'a ' + s.name)} {s.thing.motion}." for s in moving[:2]]
    sentences.append(f"The camera {_camera_words(view)}.")
    return " ".join(sentences)


def _camera_words(view: _View) -> str:
    words = [w for w in (_moved(view.poses_T44), _turned(view.poses_T44)) if w not in (None, "stays", "keeps")]
    told = {"forward": "moves forward", "backward": "moves backward", "left": "turns left", "right": "turns right"}
    spoken = [told[w] for w in words if w is not None]
    return " and ".join(spoken) if spoken else "hardly moves"


def _moved(poses_T44: np.ndarray) -> str | None:
    """Forward, backward, stays; None where it is something else or too little to say."""
    way_3 = poses_T44[-1, :3, 3]
    if np.linalg.norm(poses_T44[:, :3, 3], axis=-1).max() < STILL_M:
        return "stays"
    if abs(way_3[2]) < MOVE_M or abs(way_3[2]) < 1.5 * np.hypot(way_3[0], way_3[1]):
        return None
    return "forward" if way_3[2] > 0 else "backward"


def _turned(poses_T44: np.ndarray) -> str | None:
    """Left, right, keeps; None where it is too little to say."""
    ahead_T3 = poses_T44[:, :3, 2]
    yaw_T = np.degrees(np.unwrap(np.arctan2(ahead_T3[:, 0], ahead_T3[:, 2])))
    if np.abs(yaw_T).max() < STILL_DEG:
        return "keeps"
    if abs(yaw_T[-1]) < TURN_DEG:
        return None
    return "right" if yaw_T[-1] > 0 else "left"


# ---- questions: each function gives none or one ----


def _counting(view: _View) -> list[Question]:
    counts = Counter(s.thing.kind for s in view.seen)
    if not counts:
        return []
    number = view.rng.choice(sorted(set(counts.values())))  # one of each is common: others are asked as often
    kind = str(view.rng.choice(sorted(kind for kind, count in counts.items() if count == number)))
    return [_number("object_count", f"How many {_plural(kind)} can be seen?", counts[kind], "")]


def _existence(view: _View) -> list[Question]:
    there = sorted({s.thing.kind for s in view.seen})
    absent = [kind for kind in _COMMON if kind not in {o.kind for o in view.scene.objects}]
    ask_of = there if view.rng.random() < 0.5 else absent
    if not ask_of:
        return []
    kind = str(view.rng.choice(ask_of))
    answer = "yes" if kind in there else "no"
    return [Question(kind="existence", text=f"Is {_article(kind)} seen?", answer=answer, choices=("yes", "no"))]


def _size(view: _View) -> list[Question]:
    if not view.named:
        return []
    seen = view.named[view.rng.integers(len(view.named))]
    longest_cm = 100 * max(seen.thing.size_m_3)
    return [_number("object_size", f"How long is the longest side of {seen.the}, in centimetres?", longest_cm, "cm")]


def _distance(view: _View) -> list[Question]:
    pair = view.pair(view.still, lambda a, b: True)
    if pair is None:
        return []
    metres = float(np.linalg.norm(pair[0].middle_T3[0] - pair[1].middle_T3[0]))
    return [_number("absolute_distance", f"How far apart are {pair[0].the} and {pair[1].the}, in metres?", metres, "m")]


def _camera_distance(view: _View) -> list[Question]:
    near = [s for s in view.named if s.at_start]
    if not near:
        return []
    seen = near[view.rng.integers(len(near))]
    metres = float(np.linalg.norm(seen.middle_T3[0]))
    return [_number("camera_distance", f"How far is {seen.the} from the camera at the start, in metres?", metres, "m")]


def _room_size(view: _View) -> list[Question]:
    if view.scene.place not in INDOORS:
        return []
    area = view.scene.area_m_2[0] * view.scene.area_m_2[1]
    return [_number("room_size", f"How large is the {view.scene.place}, in square metres?", area, "m2")]


def _nearest(view: _View) -> list[Question]:
    if len(view.still) < 3:
        return []
    picked = view.rng.permutation(len(view.still))[:4]
    anchor, *others = (view.still[i] for i in picked)
    metres = sorted((float(np.linalg.norm(o.middle_T3[0] - anchor.middle_T3[0])), o.name) for o in others)
    if metres[1][0] < 1.15 * metres[0][0]:
        return []  # too close to call
    names = view.shuffled(*(o.name for o in others))
    return [
        Question(
            kind="relative_distance", text=f"Which is nearest to {anchor.the}?", answer=metres[0][1], choices=names
        )
    ]


def _direction(view: _View) -> list[Question]:
    def bearing(s: _Seen) -> float:
        return float(np.arctan2(s.middle_T3[0, 0], s.middle_T3[0, 2]))

    start = [s for s in view.named if s.at_start]
    pair = view.pair(start, lambda a, b: abs(bearing(a) - bearing(b)) > np.radians(8))
    if pair is None:
        return []
    answer = "left" if bearing(pair[0]) < bearing(pair[1]) else "right"
    text = f"At the start, is {pair[0].the} left or right of {pair[1].the}?"
    return [Question(kind="relative_direction", text=text, answer=answer, choices=("left", "right"))]


def _nearer(view: _View) -> list[Question]:
    def far(s: _Seen) -> float:
        return float(np.linalg.norm(s.middle_T3[0]))

    start = [s for s in view.named if s.at_start]
    pair = view.pair(start, lambda a, b: abs(far(a) - far(b)) > 0.15 * max(far(a), far(b)))
    if pair is None:
        return []
    answer = min(pair, key=far).name
    text = "Which is nearer to the camera at the start?"
    return [Question(kind="nearer", text=text, answer=answer, choices=(pair[0].name, pair[1].name))]


def _order(view: _View) -> list[Question]:
    pair = view.pair(view.named, lambda a, b: a.first_frame != b.first_frame)
    if pair is None:
        return []
    answer = min(pair, key=lambda s: s.first_frame).name
    text = "Which comes into view first?"
    return [Question(kind="appearance_order", text=text, answer=answer, choices=(pair[0].name, pair[1].name))]


def _camera_motion(view: _View) -> list[Question]:
    """Common answers are asked less often, so that none is a good guess."""
    moved, turned = _moved(view.poses_T44), _turned(view.poses_T44)
    asked = []
    if moved is not None and view.rng.random() < {"forward": 0.5, "backward": 1.0, "stays": 0.5}[moved]:
        choices = view.shuffled("forward", "backward", "stays")
        asked.append(Question(kind="camera_move", text="How does the camera move?", answer=moved, choices=choices))
    if turned is not None and view.rng.random() < {"left": 1.0, "right": 1.0, "keeps": 0.3}[turned]:
        choices = view.shuffled("left", "right", "keeps")
        asked.append(Question(kind="camera_turn", text="How does the camera turn?", answer=turned, choices=choices))
    return asked


def _motion(view: _View) -> list[Question]:
    moving = [s for s in view.named if s.thing.motion and s.thing.label != "robot"]
    if not moving:
        return []
    seen = moving[view.rng.integers(len(moving))]
    others = [verb for verb in _VERBS if verb != seen.thing.motion]
    wrong = view.rng.choice(others, size=2, replace=False).tolist()
    choices = view.shuffled(seen.thing.motion, *wrong)
    return [Question(kind="motion", text=f"What does {seen.the} do?", answer=seen.thing.motion, choices=choices)]


def _place(view: _View) -> list[Question]:
    others = [p for p in ("room", "corridor", "hall", "tabletop", "open") if p != view.scene.place]
    choices = view.shuffled(view.scene.place, *view.rng.choice(others, size=2, replace=False).tolist())
    return [Question(kind="place", text="What kind of place is this?", answer=view.scene.place, choices=choices)]


_ASKERS = (_counting, _existence, _size, _distance, _camera_distance, _room_size, _nearest, _direction, _nearer, _order,
           _camera_motion, _motion, _place)  # fmt: skip
KINDS = ("object_count", "existence", "object_size", "absolute_distance", "camera_distance", "room_size",
         "relative_distance", "relative_direction", "nearer", "appearance_order", "camera_move", "camera_turn",
         "motion", "place")  # fmt: skip
_VERBS = ("walks", "drives", "slides", "rolls", "falls", "bounces", "flies", "swings", "turns", "appears", "vanishes")
_COMMON = ("chair", "table", "sofa", "person", "ball", "plant", "crate", "bed", "door", "car", "tree", "shelf", "desk")


# ---- words ----


def _number(kind: str, text: str, value: float, unit: str) -> Question:
    spoken = {"": f"{round(value)}", "cm": f"{round(value)}", "m": f"{value:.1f}", "m2": f"{round(value)}"}[unit]
    return Question(kind=kind, text=text, answer=spoken, number=float(value), unit=unit)


def _counted(kind: str, number: int) -> str:
    if number == 1:
        return _article(kind)
    return f"{NUMBER_WORDS[number] if number < len(NUMBER_WORDS) else number} {_plural(kind)}"


def _plural(kind: str) -> str:
    irregular = {"person": "people", "shelf": "shelves", "loaf": "loaves", "foot": "feet"}
    if kind in irregular:
        return irregular[kind]
    if kind.endswith(("s", "x", "ch", "sh")):
        return kind + "es"
    return kind[:-1] + "ies" if kind.endswith("y") and kind[-2] not in "aeiou" else kind + "s"


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
