"""A run that is judged at milestones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_run import small_run

from omnistream_core.errors import ConfigError
from omnistream_core.evaluation.world import WorldEvaluation
from omnistream_core.pretraining import feed, monitor, trainer
from omnistream_core.pretraining.data import WorldPool
from omnistream_core.pretraining.world import WorldConfig
from training import pretrain

JUDGED = WorldEvaluation(
    probes=("heads", "pose"),
    judge_clips=1,
    fit_clips=4,
    compared=False,
    world=WorldConfig(height_px=32, width_px=48, frames=4),
)


def test_a_run_is_judged_at_every_milestone_and_goes_on_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "MILESTONE", JUDGED)
    pretrain.train_by_milestones(small_run(steps=2), tmp_path, every_s=0.0)
    figures = {path.name: json.loads(path.read_text()) for path in sorted(tmp_path.glob("world-*.json"))}
    assert list(figures) == ["world-00000001.json", "world-00000002.json"]
    first, second = figures.values()
    assert first["abs_rel"] > 0 and first["probe_ate_ratio"] > 0 and first != second


def test_milestones_build_the_run_once_and_stop_its_clock(tmp_path, monkeypatch):
    pools, judging_s = [], []
    monkeypatch.setattr(feed, "WorldPool", lambda *a, **k: pools.append(k["shard"]) or WorldPool(*a, **k))
    monkeypatch.setattr(pretrain, "evaluate_world", lambda *_: judging_s.append(1000.0) or {})
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(judging_s))
    for module in (trainer, monitor):
        monkeypatch.setattr(module, "time", clock)
    pretrain.train_by_milestones(small_run(steps=3), tmp_path / "judged", every_s=0.0)
    assert pools == [0, 1] and len(judging_s) == 3
    lines = told(tmp_path / "judged")
    assert lines[-1]["elapsed_s"] < 1000 and all(line["frames_per_s"] > 0.05 for line in lines)
    trainer.train(small_run(steps=3), tmp_path / "plain")
    losses, plain = ([{k: v for k, v in x.items() if "/" in k} for x in y] for y in (lines, told(tmp_path / "plain")))
    assert losses == plain, "what is judged learns as what is not"


def told(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_that_is_over_is_judged_once(tmp_path, monkeypatch):
    trainer.train(small_run(steps=1), tmp_path)
    monkeypatch.setattr(pretrain, "evaluate_world", lambda *_: {})
    pretrain.train_by_milestones(small_run(steps=1), tmp_path, every_s=0.0)
    assert [path.name for path in tmp_path.glob("world-*.json")] == ["world-00000001.json"]


def test_many_processes_have_no_milestones(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="milestones are for one process"):
        pretrain.train_by_milestones(small_run(), tmp_path, every_s=1.0)
