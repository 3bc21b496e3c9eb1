"""Replays a source through a session into files, one frame at a time: what `omnistream run` and `demo` do.

Whatever happens midway, every file written so far is closed and valid, and ``summary.json`` says what was done.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omnistream_core.errors import SinkError
from omnistream_core.evaluation.stream import StreamScore
from omnistream_core.session import StreamSession
from omnistream_core.sinks.base import Sink
from omnistream_core.sources.base import FrameSource
from omnistream_core.types import Frame

OUTPUTS = {
    "depth": "depth.mp4",
    "features": "features.mp4",
    "points": "points.ply",
    "trajectory": "trajectory.txt",
    "rerun": "recording.rrd",
    "summary": "summary.png",
}


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What a replay writes.

    Attributes:
        outputs: of ``OUTPUTS``.
        rate_hz: of the videos.
        max_frames: stop after so many; None goes to the end.
    """

    outputs: tuple[str, ...] = tuple(OUTPUTS)
    rate_hz: float = 10.0
    max_frames: int | None = None


def replay(
    source: FrameSource,
    session: StreamSession,
    folder: Path,
    config: ReplayConfig | None = None,
    *,
    on_frame: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Stream ``source`` into ``folder``; returns what ``summary.json`` holds.

    Args:
        on_frame: called after each frame with the number done.

    Raises:
        SourceError: an input that ends before its time; SinkError: an output that cannot be written. Both only after
            all files are closed.
    """
    config = config or ReplayConfig()
    score = StreamScore()
    facts: dict[str, Any] = {"input": source.name, "complete": False}
    with ExitStack() as stack:
        sinks = [
            stack.enter_context(sink) for sink in open_sinks(folder, config, Path(source.name.split(":/")[0]).name)
        ]
        stack.callback(lambda: _write_summary(folder, facts))
        stack.callback(lambda: facts.update(_figures(score, session, source)))  # runs first: last in, first out
        for done, frame in enumerate(source, start=1):
            _one_frame(session, frame, sinks, score)
            on_frame(done)
            if config.max_frames is not None and done >= config.max_frames:
                break
        facts["complete"] = True
    return facts


def open_sinks(folder: Path, config: ReplayConfig, title: str) -> list[Sink]:
    """The writers of ``config.outputs``, each loading only what it needs."""
    makers: dict[str, Callable[[Path], Sink]] = {
        "depth": lambda path: _module("video").DepthVideo(path, rate_hz=config.rate_hz),
        "features": lambda path: _module("video").FeaturePcaVideo(path, rate_hz=config.rate_hz),
        "points": lambda path: _module("points").PointCloud(path),
        "trajectory": lambda path: _module("trajectory").Trajectory(path),
        "rerun": lambda path: _module("rerun_sink").RerunRecording(path),
        "summary": lambda path: _module("summary").Summary(path, title=title),
    }
    return [makers[name](folder / OUTPUTS[name]) for name in config.outputs]


def _one_frame(session: StreamSession, frame: Frame, sinks: list[Sink], score: StreamScore) -> None:
    start = time.perf_counter()
    prediction = session.step(frame)
    score.add(frame, prediction, time.perf_counter() - start)
    for sink in sinks:
        sink.write(frame, prediction)


def _figures(score: StreamScore, session: StreamSession, source: FrameSource) -> dict[str, Any]:
    config = session.config
    return {
        **score.summary(),
        "skipped": dict(source.skipped),
        "repaired": dict(source.repaired),
        "ignored": dict(source.ignored),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "cache_mb": round(session.stats.cache_bytes / 2**20, 2),
        "device": config.device,
        "dtype": config.dtype,
        "window": config.window,
        "sink": config.sink,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def _write_summary(folder: Path, facts: dict[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(facts, indent=1) + "\n")
    except OSError as error:
        raise SinkError(f"{folder / 'summary.json'}: {error.strerror}") from error


def _module(name: str) -> Any:
    from importlib import import_module

    return import_module(f"omnistream_core.sinks.{name}")
