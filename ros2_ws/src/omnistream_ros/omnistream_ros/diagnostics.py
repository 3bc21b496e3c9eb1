"""What the node says of itself: one sentence for people, key and value pairs, and a StreamStatus for programs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from omnistream_msgs.msg import StreamStatus
from omnistream_ros.conversions import stamp_ns_of
from omnistream_ros.status import STAGES, CameraReport

SILENCE_S = 3.0  # a matched publisher that has sent nothing for so long is told of


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What else bears on one camera.

    Attributes:
        topic: of its images, resolved.
        stream: its number.
        camera: its name.
        is_running: the node is active and enabled.
        publishers: publishers of the topic that are matched.
        incompatible: a publisher offers less reliability than the node asks for.
        running_s: seconds since the node was activated.
        silent_s: seconds since the newest image; infinity without one.
        max_gap_s: of the parameters.
        newly_refused: images refused since the last report.
        cache_frames, cache_capacity, cache_bytes: as in StreamStatus.
    """

    topic: str
    stream: int
    camera: str
    is_running: bool
    publishers: int
    incompatible: bool
    running_s: float
    silent_s: float
    max_gap_s: float
    newly_refused: int
    cache_frames: int
    cache_capacity: int
    cache_bytes: int


def judge(report: CameraReport, about: Circumstances) -> tuple[bytes, str]:
    """(level, sentence); "" if all is well."""
    if not about.is_running:
        return DiagnosticStatus.OK, "the node is not active, or disabled: images are ignored"
    if about.silent_s == math.inf:
        return _judge_waiting(about)
    if about.silent_s > about.max_gap_s:
        return DiagnosticStatus.WARN, f"no image on {about.topic} for {about.silent_s:.1f} s"
    if report.processed == 0 and report.refused:
        return DiagnosticStatus.ERROR, f"no image of {about.topic} can be used: {_counts(report.refused)}"
    if about.newly_refused:
        return DiagnosticStatus.WARN, f"{about.newly_refused} images of {about.topic} refused in the last second"
    return DiagnosticStatus.OK, ""


def _judge_waiting(about: Circumstances) -> tuple[bytes, str]:
    if about.incompatible:
        sentence = f"the publisher of {about.topic} is not as reliable as image_qos asks: set it to sensor_data"
        return DiagnosticStatus.ERROR, sentence
    if about.publishers == 0:
        return DiagnosticStatus.WARN, (
            f"no publisher on {about.topic}: is the camera driver running, the topic remapped to its own, and "
            "ROS_DOMAIN_ID the same?"
        )
    if about.running_s < SILENCE_S:
        return DiagnosticStatus.OK, "waiting for the first image"
    return DiagnosticStatus.ERROR, (
        f"{about.publishers} publisher(s) of {about.topic} matched, but no image ever arrived: images larger than the "
        "shared memory segment of FastDDS (0.5 MB) are lost silently; set FASTDDS_DEFAULT_PROFILES_FILE to "
        "fastdds_profile.xml of omnistream_bringup for the camera driver and this node"
    )


def diagnostic_status(name: str, report: CameraReport, about: Circumstances, age_s: float) -> DiagnosticStatus:
    """For /diagnostics."""
    level, sentence = judge(report, about)
    values = {
        "topic": about.topic,
        "input Hz": f"{report.input_hz:.2f}",
        "output Hz": f"{report.output_hz:.2f}",
        "received": report.received,
        "processed": report.processed,
        "published": report.published,
        "dropped for a newer image": report.dropped_newer,
        "dropped out of order": report.dropped_stamp,
        "refused": _counts(report.refused) or 0,
        "output age s": f"{age_s:.3f}",
        "latency ms p50 p95": _pair(report.latency_ms),
        **{f"{stage} ms p50 p95": _pair(report.stage_ms[stage]) for stage in STAGES},
        "cache frames": f"{about.cache_frames} of {about.cache_capacity or 'unbounded'}",
        "cache MB": f"{about.cache_bytes / 1e6:.1f}",
        "resets": report.resets,
        "last reset": report.last_reset or "never",
    }
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=sentence or "ok", hardware_id=about.topic, values=pairs)


def stream_status(
    stamp: Time, report: CameraReport, about: Circumstances, age_s: float, window_s: float
) -> StreamStatus:
    """For ~/status."""
    return StreamStatus(
        header=Header(stamp=stamp, frame_id=report.frame_id),
        camera=about.camera,
        stream=about.stream,
        state=_state(about),
        sentence=judge(report, about)[1],
        received=report.received,
        processed=report.processed,
        dropped_newer=report.dropped_newer,
        dropped_stamp=report.dropped_stamp,
        refused=sum(report.refused.values()),
        resets=report.resets,
        last_reset=report.last_reset,
        window_s=window_s,
        input_hz=report.input_hz,
        output_hz=report.output_hz,
        output_age_s=age_s,
        latency_ms_p50=report.latency_ms[0],
        latency_ms_p95=report.latency_ms[1],
        cache_frames=about.cache_frames,
        cache_capacity=about.cache_capacity,
        cache_bytes=about.cache_bytes,
    )


def output_age_s(now: Time, report: CameraReport) -> float:
    """ROS time since the stamp of the newest output; NaN without one."""
    if report.newest_output_stamp_ns is None:
        return math.nan
    return (stamp_ns_of(now) - report.newest_output_stamp_ns) / 1e9


def _state(about: Circumstances) -> int:
    if not about.is_running:
        return StreamStatus.STATE_PAUSED
    if about.silent_s == math.inf:
        return StreamStatus.STATE_WAITING
    return StreamStatus.STATE_STALE if about.silent_s > about.max_gap_s else StreamStatus.STATE_RUNNING


def _counts(refused: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items(), key=lambda entry: -entry[1]))


def _pair(values: tuple[float, float]) -> str:
    return f"{values[0]:.2f} {values[1]:.2f}"
