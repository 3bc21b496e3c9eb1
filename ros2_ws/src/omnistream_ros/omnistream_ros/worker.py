"""The one queue and the one thread: frames and commands in order, of each camera only its newest frame. No ROS."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Command = Callable[[], None]


class Mailbox(Generic[Item]):
    """Frames of several cameras and commands between them.

    A camera holds at most one place: a newer frame takes it from the older one and goes to the end. Commands keep their
    place among the frames, none is ever dropped. Bounded by the number of cameras plus the commands waiting.

    Args:
        cameras: number of cameras, numbered from 0.
        batch_wait_s: how long frames wait for those of the other cameras, so as to be taken together.
        merge: makes the frame that waits of (older, newer); None takes the newer as it is.
    """

    def __init__(
        self, cameras: int, batch_wait_s: float = 0.0, merge: Callable[[Item, Item], Item] | None = None
    ) -> None:
        self._cameras, self._batch_wait_s, self._merge = cameras, batch_wait_s, merge
        self._changed = threading.Condition()
        self._entries: deque[tuple[int, Item] | Command] = deque()
        self._closed = False

    def put(self, camera: int, item: Item) -> bool:
        """Add a frame; True if it took the place of an older one."""
        with self._changed:
            older = next((e for e in self._entries if isinstance(e, tuple) and e[0] == camera), None)
            if older is not None:
                self._entries = deque(entry for entry in self._entries if entry is not older)
                item = self._merge(older[1], item) if self._merge else item
            if not self._closed:
                self._entries.append((camera, item))
            self._changed.notify_all()
        return older is not None

    def command(self, command: Command) -> None:
        """Add a command behind all that waits."""
        with self._changed:
            if not self._closed:
                self._entries.append(command)
            self._changed.notify_all()

    def take(self) -> Command | dict[int, Item] | None:
        """The next command, or the frames up to it, ``{camera: frame}``; waits for one; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._closed)
            if self._closed:
                return None
            if not isinstance(self._entries[0], tuple):
                return self._entries.popleft()
            if self._batch_wait_s > 0:
                self._changed.wait_for(self._is_batch_whole, self._batch_wait_s)
            return self._take_frames()

    def close(self) -> None:
        """Let go of everything that waits; ``take`` returns None from now on."""
        with self._changed:
            self._closed = True
            self._entries.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._entries)

    def _is_batch_whole(self) -> bool:
        return (
            self._closed or len(self._entries) >= self._cameras or any(not isinstance(e, tuple) for e in self._entries)
        )

    def _take_frames(self) -> dict[int, Item]:
        frames: dict[int, Item] = {}
        while self._entries and isinstance(self._entries[0], tuple):
            camera, item = self._entries.popleft()
            frames[camera] = item
        return frames


class Worker(Generic[Item]):
    """A thread that does everything in a mailbox's order.

    Args:
        mailbox: where from; closed by ``stop``.
        process: takes the frames ``{camera: frame}``.
        on_error: told of whatever a command or ``process`` raises; the thread goes on.
    """

    def __init__(
        self,
        mailbox: Mailbox[Item],
        process: Callable[[dict[int, Item]], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.mailbox, self._process, self._on_error = mailbox, process, on_error
        self._thread = threading.Thread(target=self._run, name="omnistream_worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is being done now, drop the rest, end the thread."""
        self.mailbox.close()
        self._thread.join()

    def _run(self) -> None:
        while (work := self.mailbox.take()) is not None:
            try:
                if isinstance(work, dict):
                    self._process(work)
                else:
                    work()
            except Exception as error:
                self._on_error(error)


class Throttle:
    """Lets a text through when it is new or was last let through ``period_s`` ago, and counts the ones between."""

    def __init__(self, period_s: float = 5.0, clock: Callable[[], float] = time.monotonic, keep: int = 64) -> None:
        self._period_s, self._clock, self._keep = period_s, clock, keep
        self._last: dict[str, tuple[float, int]] = {}

    def __call__(self, key: str) -> int | None:
        """Number of silent repetitions since the last time it was let through; None while it is to stay silent."""
        now = self._clock()
        last, held = self._last.get(key, (-float("inf"), 0))
        if now - last < self._period_s:
            self._last[key] = (last, held + 1)
            return None
        if key not in self._last and len(self._last) >= self._keep:
            self._last.pop(next(iter(self._last)))
        self._last[key] = (now, 0)
        return held
