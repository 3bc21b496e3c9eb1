"""The soak and the latency benchmark as tests; short in the quick suite, whole in the slow one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ros_harness import ROOT


def run(script: str, install: Path, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--install", str(install), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("frames", [200, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_memory_and_descriptors_stay(install: Path, frames: int) -> None:
    result = json.loads(run("ros_soak.py", install, "--frames", str(frames)).splitlines()[-1])
    assert result["frames"] == frames


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_node_adds_little(install: Path, tmp_path: Path) -> None:
    run("ros_latency.py", install, "--json", str(tmp_path / "figures"))
    rows = {row["case"]: row for row in json.loads((tmp_path / "figures").read_text())["rows"]}
    assert rows["depth"]["added_ms_p50"] <= rows["relay"]["added_ms_p50"] + 2.5, "no more than rclpy itself takes"
    assert rows["depth"]["added_ms_p95"] <= 15
    mid, slow = rows["depth, model of 20 ms"], rows["depth, model of 100 ms"]
    assert mid["output_hz"] >= 29 and abs(mid["age_ms_growth"]) < 5
    assert slow["received"] < slow["sent"] and slow["age_ms_p95"] < 200
