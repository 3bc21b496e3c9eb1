"""Rates and percentiles."""

from __future__ import annotations

import math

import pytest

from omnistream_ros.status import CameraStatus, Percentiles, Rate


def test_the_rate_is_over_the_window_alone() -> None:
    rate = Rate(window_s=10)
    for i in range(100):
        rate.add(i / 30)
    assert rate.hz(100 / 30) == pytest.approx(30)
    assert rate.hz(1000) == 0


def test_percentiles_forget() -> None:
    values = Percentiles(most=100)
    assert all(math.isnan(v) for v in values())
    for i in range(1000):
        values.add(float(i))
    assert values() == (pytest.approx(949.5), pytest.approx(994.05))


def test_the_report_counts() -> None:
    status = CameraStatus()
    status.arrived(1.0, replaced=False)
    status.arrived(1.1, replaced=True)
    status.out_of_order()
    status.refuse("empty image")
    status.refuse("empty image")
    status.reset("gap")
    status.done(1.2, 1.1, 5, "cam", {"decode": 1.0, "step": 2.0, "publish": 3.0})
    report = status.report(1.2)
    assert (report.received, report.processed, report.dropped_newer, report.dropped_stamp) == (2, 1, 1, 1)
    assert report.refused == {"empty image": 2}
    assert (report.resets, report.last_reset) == (1, "gap")
    assert report.latency_ms[0] == pytest.approx(100)
    assert report.stage_ms["publish"] == (3.0, 3.0)


def test_what_is_processed_but_not_published_is_no_output() -> None:
    status = CameraStatus()
    status.done(1.2, 1.1, 5, "cam", {"decode": 1.0, "step": 2.0})
    report = status.report(1.2)
    assert (report.processed, report.published, report.newest_output_stamp_ns) == (1, 0, None)
    assert math.isnan(report.latency_ms[0]) and report.stage_ms["step"] == (2.0, 2.0)
