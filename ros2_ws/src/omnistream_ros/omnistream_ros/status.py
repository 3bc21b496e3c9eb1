"""Rates, percentiles and counts of a running node. No ROS. Written by two threads, read by one."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

STAGES = ("decode", "step", "publish")


class Rate:
    """Events a second over the last ``window_s``."""

    def __init__(self, window_s: float, most: int = 1000) -> None:
        self._window_s = window_s
        self._times: deque[float] = deque(maxlen=most)

    def add(self, now_s: float) -> None:
        self._times.append(now_s)

    def hz(self, now_s: float) -> float:
        """Over the events of the window; 0 with fewer than two of them."""
        recent = [time for time in self._times if time > now_s - self._window_s]
        if len(recent) < 2:
            return 0.0
        return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-9)


class Percentiles:
    """p50 and p95 of the newest ``most`` values, in memory of its own."""

    def __init__(self, most: int = 300) -> None:
        self._values = np.full(most, np.nan)
        self._count = 0

    def add(self, value: float) -> None:
        self._values[self._count % len(self._values)] = value
        self._count += 1

    def __call__(self) -> tuple[float, float]:
        """(p50, p95); NaN without values."""
        known = self._values[: min(self._count, len(self._values))]
        if not len(known):
            return float("nan"), float("nan")
        p50, p95 = np.percentile(known, (50, 95))
        return float(p50), float(p95)


@dataclass(frozen=True, kw_only=True)
class CameraReport:
    """One camera's figures; as in omnistream_msgs/StreamStatus. ``newest_*`` are None before the first."""

    received: int
    processed: int
    published: int
    dropped_newer: int
    dropped_stamp: int
    refused: dict[str, int]
    resets: int
    last_reset: str
    input_hz: float
    output_hz: float
    newest_input_s: float | None
    newest_output_stamp_ns: int | None
    frame_id: str
    latency_ms: tuple[float, float]
    stage_ms: dict[str, tuple[float, float]]


@dataclass
class CameraStatus:
    """Counts of one camera. Times are of a monotonic clock, seconds."""

    window_s: float = 10.0
    received: int = 0
    processed: int = 0
    published: int = 0
    dropped_newer: int = 0
    dropped_stamp: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    resets: int = 0
    last_reset: str = ""
    newest_input_s: float | None = None
    newest_output_stamp_ns: int | None = None
    frame_id: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._in, self._out = Rate(self.window_s), Rate(self.window_s)
        self._latency = Percentiles()
        self._stages = {stage: Percentiles() for stage in STAGES}

    def arrived(self, now_s: float, *, replaced: bool) -> None:
        """An image came in; ``replaced`` if it took the place of a waiting one."""
        with self._lock:
            self.received += 1
            self.dropped_newer += replaced
            self.newest_input_s = now_s
            self._in.add(now_s)

    def refuse(self, reason: str) -> None:
        """An image could not be used; ``reason`` is one of a few."""
        with self._lock:
            self.refused[reason] = self.refused.get(reason, 0) + 1

    def out_of_order(self) -> None:
        """An image was left out for its stamp."""
        with self._lock:
            self.dropped_stamp += 1

    def reset(self, reason: str) -> None:
        """The stream began anew."""
        with self._lock:
            self.resets += 1
            self.last_reset = reason

    def done(self, now_s: float, arrived_s: float, stamp_ns: int, frame_id: str, stage_ms: dict[str, float]) -> None:
        """An image was processed and, if ``stage_ms`` has that stage, published."""
        with self._lock:
            self.processed += 1
            if "publish" in stage_ms:
                self.published += 1
                self.newest_output_stamp_ns, self.frame_id = stamp_ns, frame_id
                self._out.add(now_s)
                self._latency.add((now_s - arrived_s) * 1e3)
            for stage, value in stage_ms.items():
                self._stages[stage].add(value)

    def report(self, now_s: float) -> CameraReport:
        """A consistent copy."""
        with self._lock:
            return CameraReport(
                received=self.received,
                processed=self.processed,
                published=self.published,
                dropped_newer=self.dropped_newer,
                dropped_stamp=self.dropped_stamp,
                refused=dict(self.refused),
                resets=self.resets,
                last_reset=self.last_reset,
                input_hz=self._in.hz(now_s),
                output_hz=self._out.hz(now_s),
                newest_input_s=self.newest_input_s,
                newest_output_stamp_ns=self.newest_output_stamp_ns,
                frame_id=self.frame_id,
                latency_ms=self._latency(),
                stage_ms={stage: values() for stage, values in self._stages.items()},
            )
