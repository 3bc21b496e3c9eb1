"""``omnistream-bag-to-dataset``: teleoperation bags become a LeRobotDataset (v3), one episode a bag.

Time is cut into periods of 1 / fps. At the beginning of a period a policy would have the newest image of each camera
and the newest state, so these are the observation; what was commanded last by the end of the period is the action.
A message counts for ``max_age_s`` after its stamp; where none counts, the bag has a gap and is refused.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from lerobot_policy_omnistream.bag_signals import Signal, read_signals
from omnistream_core.errors import OmniStreamError, SourceError
from omnistream_core.sources.rosbag import RosbagSource

NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class BagLayout:
    """What of a bag becomes what.

    Attributes:
        cameras: name in the dataset (``front``) to image topic.
        state, commands: topics whose numbers, one after the other, are ``observation.state`` and ``action``.
        task: what is done, in words.
        fps: frames a second of the dataset.
        max_age_s: for so long a message holds, seconds.
        size_wh: (width, height) of the images in pixels; None as they are.
    """

    cameras: Mapping[str, str]
    state: tuple[str, ...]
    commands: tuple[str, ...]
    task: str
    fps: int = 30
    max_age_s: float = 0.2
    size_wh: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for what, topics in (("camera", self.cameras), ("state", self.state), ("command", self.commands)):
            if not topics:
                raise SourceError(f"no {what} topic is named; at least one is needed")
        if self.fps < 1 or self.max_age_s <= 0:
            raise SourceError(f"fps is {self.fps} and max_age_s {self.max_age_s}; both must be positive")

    @property
    def topics(self) -> tuple[str, ...]:
        return (*self.cameras.values(), *self.state, *self.commands)


def convert(bags: list[Path], layout: BagLayout, out: Path) -> int:
    """Writes one episode a bag to the folder ``out``; the number of frames. ``out`` appears when all is written.

    Raises:
        SourceError: ``out`` exists; a topic is missing (those there are listed); topics without a time in common;
            a gap; bags whose images or joints differ.
    """
    if out.exists():
        raise SourceError(f"{out} exists; choose another folder")
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        frames = _write(bags, layout, unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.rename(out)
    return frames


def _write(bags: list[Path], layout: BagLayout, root: Path) -> int:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if not bags:
        raise SourceError("no bag is named; at least one is needed")
    dataset, features, count = None, {}, 0
    try:
        for bag in bags:
            for frame in episode(bag, layout):
                if dataset is None:
                    features = frame.features
                    dataset = LeRobotDataset.create("local/" + root.stem, layout.fps, features, root=root)
                if frame.features != features:
                    raise SourceError(f"{bag}: {_difference(features, frame.features)}")
                dataset.add_frame(frame.values)
                count += 1
            dataset.save_episode(parallel_encoding=False)
    finally:
        if dataset is not None:  # also of what is thrown away: left to its destructor, it would write the folder again
            dataset.finalize()
    return count


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    key = next(key for key in before if before[key] != now.get(key))
    return f"{key} is {now[key]['shape']} of {now[key]['names']}, in the bags before {before[key]['shape']} of " + str(
        before[key]["names"]
    )


@dataclass(frozen=True, kw_only=True)
class DatasetFrame:
    """One frame as LeRobot's ``add_frame`` takes it, and LeRobot's description of its keys."""

    values: dict[str, Any]
    features: dict[str, dict[str, Any]]


def episode(bag: Path, layout: BagLayout) -> Iterator[DatasetFrame]:
    """The frames of one bag, in time."""
    signals = read_signals(bag, list(layout.cameras.values()), [*layout.state, *layout.commands])
    period_ns = NS // layout.fps
    times_ns = _times(bag, layout, signals, period_ns)
    state = _table(bag, layout, [signals[topic] for topic in layout.state], times_ns)
    action = _table(bag, layout, [signals[topic] for topic in layout.commands], times_ns + period_ns - 1)
    features = {"observation.state": _numbers(state), "action": _numbers(action)}
    for topic in layout.cameras.values():
        _check_gaps(bag, layout, signals[topic], times_ns)
    pictures = {name: _pictures(bag, topic, layout, times_ns) for name, topic in layout.cameras.items()}
    for index in range(len(times_ns)):
        images = {f"observation.images.{name}": next(frames) for name, frames in pictures.items()}
        shapes = {
            key: {"dtype": "video", "shape": image.shape, "names": ["height", "width", "channels"]}
            for key, image in images.items()
        }
        row = {"observation.state": state.values[index], "action": action.values[index], "task": layout.task}
        yield DatasetFrame(values=row | images, features=features | shapes)


def _times(bag: Path, layout: BagLayout, signals: Mapping[str, Signal], period_ns: int) -> np.ndarray:
    """(N,) the beginnings of the periods for which every topic has been heard and still is."""
    first = max(signals.values(), key=lambda signal: signal.stamps_ns[0])
    last = min(signals.values(), key=lambda signal: signal.stamps_ns[-1])
    start_ns, end_ns = int(first.stamps_ns[0]), int(last.stamps_ns[-1])
    if end_ns - start_ns < period_ns:
        raise SourceError(
            f"{bag}: {last.topic} ends {(start_ns - end_ns) / NS:.3f} s before {first.topic} begins: "
            f"no period of {1 / layout.fps:.3f} s in common; do their stamps come from one clock?"
        )
    return np.arange(start_ns, end_ns + 1, period_ns, dtype=np.int64)


def _check_gaps(bag: Path, layout: BagLayout, signal: Signal, times_ns: np.ndarray) -> np.ndarray:
    """(N,) the newest message of the topic at each time."""
    index, age_ns = signal.newest_before(times_ns)
    worst = int(age_ns.argmax())
    if age_ns[worst] > layout.max_age_s * NS:
        since_s = (signal.stamps_ns[index[worst]] - times_ns[0]) / NS
        raise SourceError(
            f"{bag}: {signal.topic} has a gap: nothing for {age_ns[worst] / NS:.3f} s from second {since_s:.3f} of the "
            f"episode on; at most max_age_s = {layout.max_age_s:g} s is allowed. Cut the bag there, or allow more"
        )
    return index


@dataclass(frozen=True, kw_only=True)
class _Table:
    names: list[str]
    values: np.ndarray


def _table(bag: Path, layout: BagLayout, signals: list[Signal], times_ns: np.ndarray) -> _Table:
    """The newest values of the topics at each time, side by side; columns named by topic where there are several."""
    values = [signal.values[_check_gaps(bag, layout, signal, times_ns)] for signal in signals]
    several = len(signals) > 1
    names = [f"{signal.topic}/{name}" if several else name for signal in signals for name in signal.names]
    return _Table(names=names, values=np.concatenate(values, axis=1))


def _numbers(table: _Table) -> dict[str, Any]:
    return {"dtype": "float32", "shape": (table.values.shape[1],), "names": table.names}


def _pictures(bag: Path, topic: str, layout: BagLayout, times_ns: np.ndarray) -> Iterator[np.ndarray]:
    """The newest image at each time, (H, W, 3) uint8 RGB; an image that cannot be read leaves its predecessor."""
    with RosbagSource(bag, topic=topic, depth_topic="", pose_topic="") as source:
        frames = iter(source)
        shown = following = next(frames)
        for time_ns in times_ns:
            while following is not None and following.stamp_ns <= time_ns:
                shown, following = following, next(frames, None)
            yield _resized(shown.image_HW3, layout.size_wh)


def _resized(image_HW3: np.ndarray, size_wh: tuple[int, int] | None) -> np.ndarray:
    return image_HW3 if size_wh is None else cv2.resize(image_HW3, size_wh, interpolation=cv2.INTER_AREA)


# ---- the command ----


def bag_to_dataset(
    bags: Annotated[list[Path], typer.Argument(help="Bags of any kind, one episode each.")],
    out: Annotated[Path, typer.Option(help="Folder of the dataset; must not exist.")],
    camera: Annotated[list[str], typer.Option(metavar="NAME=TOPIC", help="front=/camera/color/image_raw; repeatable.")],
    state: Annotated[list[str], typer.Option(metavar="TOPIC", help="JointState, poses, ...; repeatable.")],
    command: Annotated[list[str], typer.Option(metavar="TOPIC", help="What the robot was told; repeatable.")],
    task: Annotated[str, typer.Option(help="What is done, in words.")],
    fps: Annotated[int, typer.Option(help="Frames a second of the dataset.", min=1)] = 30,
    max_age_s: Annotated[float, typer.Option(help="For so long a message holds, seconds.")] = 0.2,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size of the images, pixels; else as they are.")
    ] = None,
) -> None:
    """Turn teleoperation bags (cameras, joint states, commands) into a LeRobotDataset."""
    layout = BagLayout(
        cameras=dict(_pair(text) for text in camera),
        state=tuple(state),
        commands=tuple(command),
        task=task,
        fps=fps,
        max_age_s=max_age_s,
        size_wh=_size(size),
    )
    frames = convert(bags, layout, out)
    print(f"{len(bags)} episodes, {frames} frames at {fps} Hz in {out}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, topic = text.partition("=")
    if not (name and equals and topic):
        raise SourceError(f"--camera {text!r} is not NAME=TOPIC")
    return name, topic


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise SourceError(f"--size {text!r} is not WxH in pixels, as 320x240")
    return int(width), int(height)


def main() -> None:
    """Bad input gets one clear line and exit code 2."""
    logging.basicConfig(level=logging.WARNING)
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(bag_to_dataset)
    try:
        app()
    except OmniStreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
