"""The bench counts what a step really computes, and measures what it says."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.check import PAIRS, WRITTEN, fallen
from benchmarks.memory_quality import changes, verdicts
from omnistream_core import native
from omnistream_core.bench.counts import Ceilings, Work, frame_work, total
from omnistream_core.bench.official import OfficialStream, official_tensors
from omnistream_core.bench.report import tables
from omnistream_core.bench.run import BenchConfig, agree, bench
from omnistream_core.cache import KVCache
from omnistream_core.checkpoint import map_keys, official_key, official_value
from omnistream_core.config import preset
from omnistream_core.errors import OmniStreamError
from omnistream_core.model import build_model
from omnistream_core.native import NativeUnavailable

try:
    HAS_INT8 = bool(native.kernels().multiplies_int8())
except NativeUnavailable:
    HAS_INT8 = False


def work_of(name: str, grid_hw: tuple[int, int], frames: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Work]:
    return frame_work(preset(name).backbone, grid_hw=grid_hw, visible_frames=frames, dtype=dtype)


def test_the_published_size_costs_what_is_said_of_it():
    """ViT-L at 512 px: 0.62 + 0.104 T TFLOP a frame, 101 MB of memory a frame in bfloat16."""
    config, grid_hw = preset("large").backbone, (32, 32)
    one, two = (total(work_of("large", grid_hw, frames)).flops / 1e12 for frames in (1, 2))
    assert two - one == pytest.approx(0.104, abs=0.0005)
    assert one - (two - one) == pytest.approx(0.62, abs=0.005)
    held = KVCache.bytes_needed(config, grid_hw=grid_hw, frames=1, dtype=torch.bfloat16)
    assert held / 1e6 == pytest.approx(101, abs=0.5)


@pytest.mark.parametrize("window", [None, 2])
@torch.inference_mode()
def test_counted_operations_are_those_that_run(window):
    """Against torch's own counter, on real steps; in bfloat16, whose attention on a CPU is of products it can count."""
    backbone = build_model(preset("tiny")).backbone.bfloat16()
    cache = KVCache(backbone.config, grid_hw=(2, 3), window=window, sink=1, dtype=torch.bfloat16)
    image = torch.zeros(1, 1, 3, 32, 48, dtype=torch.bfloat16)
    for frame in range(1, 6):
        with FlopCounterMode(display=False) as counter:
            backbone(image, cache)
        visible = frame if window is None else min(frame, 3)
        counted = total(work_of("tiny", (2, 3), visible, torch.float32)).flops
        aspect = 2 * backbone.config.width  # the embedding of the aspect ratio, not worth a stage
        assert counter.get_total_flops() == counted + aspect


def test_a_floor_is_the_slower_of_computing_and_moving():
    limits = Ceilings(flops_per_s=10.0, bytes_per_s=2.0)
    assert Work(flops=100.0, bytes=2.0).floor_s(limits) == 10.0
    assert Work(flops=1.0, bytes=20.0).floor_s(limits) == 10.0


def test_official_tensors_are_the_inverse_of_reading_them():
    ours = build_model(preset("tiny")).backbone.state_dict()
    released = {f"patch_embed.{key}": value for key, value in official_tensors(ours).items()}
    back = map_keys(released, official_key(True), official_value)
    assert set(back) == {f"backbone.{key}" for key in ours}
    assert all(torch.equal(back[f"backbone.{key}"], value) for key, value in ours.items())


def test_a_folder_that_is_no_checkout_is_named(tmp_path):
    with pytest.raises(OmniStreamError, match="no checkout of the official release"):
        OfficialStream(tmp_path, build_model(preset("tiny")).backbone)


def test_outputs_that_differ_stop_the_bench():
    x = torch.ones(2, 3)
    agree(x, x * 1.0001, torch.float32)
    with pytest.raises(AssertionError, match="differ by"):
        agree(x, x * 1.01, torch.float32)


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_a_bench_of_a_small_model(engine, tmp_path):
    threads = torch.get_num_threads()
    config = BenchConfig(
        preset="tiny", size_px=64, frames=(2, 6), dtypes=("float32",), engine=engine, threads=1, window=2, repeats=2
    )
    try:
        figures = json.loads(json.dumps(bench(config)))
    finally:
        torch.set_num_threads(threads)
    rows = {(row["variant"], row["frame"]): row for row in figures["rows"]}
    bounded = ("window 2", "window 2, int8 weights") if engine == "auto" and HAS_INT8 else ("window 2",)
    assert set(rows) == {(v, f) for v in ("exact", *bounded) for f in (2, 6)} | {(v, 4000) for v in bounded}
    assert rows["exact", 6]["gflop"] > rows["window 2", 6]["gflop"] == rows["window 2", 4000]["gflop"]
    assert all(row["ms_p50"] > 0 and row["floor_ms"] > 0 for row in figures["rows"])
    stages = {row["stage"]: row["ms_p50"] for row in figures["stages"]}
    parts = sum(ms for stage, ms in stages.items() if stage not in ("whole step", "heads"))
    assert stages["qkv"] > 0 and stages["heads"] > 0 and len(stages) >= 8
    assert 0.3 < parts / stages["whole step"] < 3, "stages of a step add up to it, but for the noise of the machine"
    assert [table.row_count for table in tables(figures)] == [len(rows), len(figures["stages"])]


def test_the_guard_sees_a_ratio_that_fell():
    before = {"a": 2.0, "b": 3.0}
    assert fallen({"a": 1.61, "b": 9.0}, before) == {}
    assert fallen({"a": 1.59, "b": 3.0}, before) == {"a": (1.59, 2.0)}
    assert fallen({"a": 2.0}, before) == {"b": (0.0, 3.0)}


def test_changes_of_quality_are_relative_and_worse_is_positive():
    exact = {"at": {"16": {"abs_rel": 0.2, "delta_1.25": 0.5, "ate_m": 1.0}}}
    small = {"at": {"16": {"abs_rel": 0.201, "delta_1.25": 0.52, "ate_m": 1.03}}}
    assert changes(small, exact) == pytest.approx({"abs_rel": 0.005, "delta_1.25": -0.04, "ate_m": 0.03})
    cells = {"window | float32": exact, "window | memory in bfloat16": small, "window | all in bfloat16": small}
    told = verdicts(cells)
    assert "window | float32" not in told and "holds" not in told["window | all in bfloat16"]
    assert told["window | memory in bfloat16"]["holds"] is False, "3 % of ATE are more than the 1 % that is claimed"


def test_what_the_guard_compares_with_is_what_it_measures():
    written = json.loads(WRITTEN.read_text())["ratios"]
    assert set(written) == {f"{dtype}: {name}" for dtype in ("float32", "bfloat16") for name in PAIRS}
    assert all(ratio > 0.7 for ratio in written.values())
