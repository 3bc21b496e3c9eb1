"""Resets and drops from headers alone."""

from __future__ import annotations

import pytest

from omnistream_core.errors import ConfigError
from omnistream_core.types import CameraModel
from omnistream_ros.stream_guard import GuardLimits, StreamGuard, Verdict

SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS


def camera(focal_px: float = 500.0) -> CameraModel:
    return CameraModel(width_px=640, height_px=480, fx_px=focal_px, fy_px=focal_px, cx_px=320, cy_px=240)


class Stream:
    def __init__(self, **limits: float) -> None:
        self.guard = StreamGuard(GuardLimits(**limits))

    def see(
        self,
        at_s: float,
        size_hw: tuple[int, int] = (480, 640),
        frame_id: str = "cam",
        model: CameraModel | None = None,
    ) -> Verdict:
        stamp_ns = START_NS + round(at_s * SECOND_NS)
        return self.guard.check(stamp_ns=stamp_ns, size_hw=size_hw, frame_id=frame_id, camera=model)


def test_a_steady_stream_goes_on() -> None:
    stream = Stream()
    assert all(stream.see(i / 30, model=camera()) == Verdict(accept=True) for i in range(100))


def test_a_gap_resets_once() -> None:
    stream = Stream(max_gap_s=2)
    stream.see(0)
    assert stream.see(12.5) == Verdict(accept=True, reset_reason="gap of 12.5 s between images (max_gap_s is 2)")
    assert stream.see(12.6).reset_reason == ""


def test_images_that_were_left_out_are_no_gap() -> None:
    guard = StreamGuard(GuardLimits(max_gap_s=2))
    seen = {"size_hw": (480, 640), "frame_id": "cam"}
    guard.check(stamp_ns=START_NS, **seen)
    assert guard.check(stamp_ns=START_NS + 5 * SECOND_NS, silence_s=0.03, **seen) == Verdict(accept=True)
    assert "gap of 4.0 s" in guard.check(stamp_ns=START_NS + 11 * SECOND_NS, silence_s=4.0, **seen).reset_reason


def test_a_loop_resets_once() -> None:
    stream = Stream()
    for i in range(30):
        stream.see(i / 10)
    assert stream.see(0).reset_reason == "time jumped back by 2.9 s"
    assert stream.see(0.1) == Verdict(accept=True)


def test_stragglers_and_repeats_are_left_out() -> None:
    stream = Stream()
    stream.see(1.0)
    assert not stream.see(0.97).accept
    assert not stream.see(1.0).accept
    assert stream.see(1.03) == Verdict(accept=True)


def test_the_loop_of_a_recording_shorter_than_the_disorder_is_still_seen() -> None:
    stream = Stream(max_disorder_s=0.5)
    stamps_s = [0.0, 0.03, 0.06, 0.09, 0.12]
    for at_s in stamps_s:
        stream.see(at_s)
    verdicts = [stream.see(at_s) for at_s in stamps_s]
    assert [v.accept for v in verdicts] == [False, False, True, True, True]
    assert "time jumped back" in verdicts[2].reset_reason


def test_repeats_that_do_not_run_forward_are_no_jump() -> None:
    stream = Stream()
    stream.see(1.0)
    assert not any(stream.see(1.0).accept for _ in range(10))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size_hw": (240, 320)}, "image size changed from 640x480 to 320x240 px"),
        ({"frame_id": "other"}, "camera frame changed from 'cam' to 'other'"),
        ({"model": camera(600.0)}, "intrinsics changed from f (500.0, 500.0)"),
    ],
)
def test_another_camera_resets_once(change: dict, reason: str) -> None:
    stream = Stream()
    stream.see(0, model=camera())
    assert reason in stream.see(0.1, **{"model": camera(), **change}).reset_reason
    assert stream.see(0.2, **{"model": camera(), **change}).reset_reason == ""


def test_intrinsics_that_come_late_or_breathe_do_not_reset() -> None:
    stream = Stream(intrinsics_tolerance=0.02)
    stream.see(0)
    assert stream.see(0.1, model=camera()).reset_reason == ""
    assert stream.see(0.2, model=camera(505.0)).reset_reason == ""
    assert stream.see(0.3).reset_reason == ""


def test_after_forget_anything_is_the_first() -> None:
    stream = Stream()
    stream.see(100)
    stream.guard.forget()
    assert stream.see(1, size_hw=(10, 10), frame_id="x") == Verdict(accept=True)


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match="max_gap_s = 0: more than 0"):
        GuardLimits(max_gap_s=0)
