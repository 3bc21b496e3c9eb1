"""Which frames a memory keeps, and where: pure functions of a frame's number.

A memory is a row of slots, each of one frame; slots fill from the left, so what may be seen is always a prefix. In each
policy with a bound the first ``sink`` frames stay for ever and the ``window`` newest lie in a ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from omnistream_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Before a frame is overwritten: ``target += weight * (source - target)``, slot by slot; weight 1 is a copy."""

    source: int
    target: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a frame goes, how many slots are valid once it is there, and what has to be saved before."""

    slot: int
    fill: int
    fold: Fold | None = None


class Retention(Protocol):
    """A policy. ``slots`` is its bound in frames, None if it has none."""

    @property
    def slots(self) -> int | None: ...

    def place(self, frame: int) -> Placement:
        """Place of frame number ``frame`` of a stream, counted from 0."""
        ...


@dataclass(frozen=True)
class Everything:
    """Every frame, for ever: a memory that grows."""

    @property
    def slots(self) -> None:
        return None

    def place(self, frame: int) -> Placement:
        return Placement(slot=frame, fill=frame + 1)


@dataclass(frozen=True, kw_only=True)
class Recent:
    """The ``sink`` first and the ``window`` newest frames."""

    window: int
    sink: int = 1

    def __post_init__(self) -> None:
        if self.window < 1 or self.sink < 0:
            raise ConfigError(
                f"memory of window {self.window}, sink {self.sink}: window from 1, sink from 0 are needed"
            )

    @property
    def slots(self) -> int:
        return self.sink + self.window

    def place(self, frame: int) -> Placement:
        if frame < self.sink:
            return Placement(slot=frame, fill=frame + 1)
        slot = self.sink + (frame - self.sink) % self.window
        return Placement(slot=slot, fill=min(frame + 1, self.slots))


@dataclass(frozen=True, kw_only=True)
class Older:
    """As ``Recent``, and ``older`` slots for what leaves the window, each for ``every`` frames in a row.

    With ``mean`` a slot holds the mean of the keys and of the values of its frames, token by token; without, it holds
    the first of them. The slots form a ring of their own, so a stream remembers ``older * every`` frames beyond its
    window, and forgets ``every`` at once.
    """

    window: int
    sink: int = 1
    older: int = 8
    every: int = 4
    mean: bool = True

    def __post_init__(self) -> None:
        Recent(window=self.window, sink=self.sink)
        if self.older < 1 or self.every < 1:
            raise ConfigError(f"memory of older {self.older}, every {self.every}: both from 1 are needed")

    @property
    def slots(self) -> int:
        return self.sink + self.window + self.older

    def place(self, frame: int) -> Placement:
        recent = Recent(window=self.window, sink=self.sink)
        placed, left = recent.place(frame), frame - recent.slots  # number among those that have left the window
        if left < 0:
            return placed
        group, number = divmod(left, self.every)
        fill = recent.slots + min(group + 1, self.older)
        if number and not self.mean:
            return Placement(slot=placed.slot, fill=fill)
        fold = Fold(source=placed.slot, target=recent.slots + group % self.older, weight=1 / (number + 1))
        return Placement(slot=placed.slot, fill=fill, fold=fold)


def retention(*, window: int | None, sink: int) -> Retention:
    """``Everything`` without a window, else ``Recent``."""
    return Everything() if window is None else Recent(window=window, sink=sink)
