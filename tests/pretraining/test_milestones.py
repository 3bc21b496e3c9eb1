"""A run that is judged at milestones."""

from __future__ import annotations

import json

import pytest
from small_run import small_run

from omnistream_core.errors import ConfigError
from omnistream_core.evaluation.world import WorldEvaluation
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


def test_many_processes_have_no_milestones(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="milestones are for one process"):
        pretrain.train_by_milestones(small_run(), tmp_path, every_s=1.0)
