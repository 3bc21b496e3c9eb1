"""Two thousand frames through a window: memory and time stay what they were after the first few."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from omnistream_core.config import StreamConfig
from omnistream_core.session import StreamSession
from omnistream_core.types import Frame

FRAMES = 2000
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def frame(number: int) -> Frame:
    return Frame(image_HW3=IMAGES[number % 16], index=number)


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
def test_resident_memory_is_flat(make_model):
    """To 1 %, which a leak of a few kilobytes a frame exceeds."""
    session = StreamSession(make_model(patch_px=8), StreamConfig(window=8))
    for number in range(200):
        session.step(frame(number))
    early, held = resident_bytes(), session.stats.cache_bytes
    for number in range(200, FRAMES):
        session.step(frame(number))
    late = resident_bytes()
    print(f"resident after 200 frames {early / 2**20:.1f} MiB, after {FRAMES} {late / 2**20:.1f} MiB")
    assert session.stream_index() == FRAMES and session.fill() == 9 and session.stats.cache_bytes == held
    assert late < 1.01 * early


@pytest.mark.slow
def test_the_time_of_a_frame_is_flat(make_model):
    """Medians of a hundred frames; the best of three runs, since other work on the machine only ever adds."""
    ratios = []
    for _ in range(3):
        session, times = StreamSession(make_model(patch_px=8), StreamConfig(window=8)), []
        for number in range(FRAMES):
            start = time.perf_counter()
            session.step(frame(number))
            times.append(time.perf_counter() - start)
        ratios.append(median(times[-100:]) / median(times[50:150]))
        print(f"frames 50-150: {1e3 * median(times[50:150]):.2f} ms, last 100: {1e3 * median(times[-100:]):.2f} ms")
        if ratios[-1] <= 1.1:
            break
    assert min(ratios) <= 1.1
