"""The benchmark of policies: what a policy learns from, and how successes are counted and told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("lerobot_env_omnistream")

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from scipy.stats import binomtest

from benchmarks import policies as benchmark
from lerobot_env_omnistream.takeover import Takeover

from .conftest import LENGTHS, write_dataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("successes", "episodes"), [(0, 50), (1, 50), (23, 50), (44, 50), (50, 50), (3, 7)])
def test_intervals_are_wilsons(successes, episodes):
    expected = binomtest(successes, episodes).proportion_ci(method="wilson")
    assert benchmark.wilson(successes, episodes) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_merged_demonstrations_are_those_of_the_parts(tmp_path):
    parts = [write_dataset(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    (tmp_path / "whole.partial").mkdir()  # of a run that was killed
    benchmark.merge([part.root for part in parts], tmp_path / "whole")
    whole = LeRobotDataset("test/whole", root=tmp_path / "whole")
    assert whole.meta.total_episodes == 2 * len(LENGTHS)
    expected = [row["action"] for part in parts for row in part.hf_dataset]
    assert [row["action"].tolist() for row in whole.hf_dataset] == [action.tolist() for action in expected]
    assert not (tmp_path / "whole.partial").exists()


@pytest.fixture
def places(tmp_path):
    return benchmark.Places(data=tmp_path / "data", runs=tmp_path / "runs", json=tmp_path / "figures.json")


@pytest.fixture
def recorded(monkeypatch):
    """What is recorded: name of the folder, task, noise, episodes, first seed, takeover; a small dataset each."""
    calls = []

    def record(env, episodes, out, *, first_seed, takeover=None):
        calls.append((out.name, env.task, env.stress_action_noise, episodes, first_seed, takeover))
        write_dataset(out, lengths=(4,), seed=len(calls))
        return out

    monkeypatch.setattr(benchmark, "record", record)
    return calls


def test_demonstrations_that_are_missing_are_recorded_once(places, recorded):
    found = benchmark.demonstrated("Stack", places)
    assert recorded == [
        ("robosuite_Stack_clean", "Stack", 0, 100, 0, None),
        ("robosuite_Stack_noisy", "Stack", benchmark.NOISE, 50, benchmark.NOISY_SEED, None),
    ]
    assert LeRobotDataset("test/whole", root=found).meta.total_episodes == 2
    assert benchmark.demonstrated("Stack", places) == found and len(recorded) == 2
    assert benchmark.demonstrated("Door", places).name == recorded[2][0] == "robosuite_Door"


def test_a_correcting_policy_learns_from_demonstrations_and_corrections_of_another(places, recorded, monkeypatch):
    write_dataset(places.dataset("Stack"), seed=0)

    def train(task, name, minutes, places, dataset):
        return places.runs / task / f"{name}-{minutes}-on-{dataset.name}"

    monkeypatch.setattr(benchmark, "train", train)
    assert benchmark.dataset_of("Stack", "ours", 8, places) == places.dataset("Stack") and recorded == []
    found = benchmark.dataset_of("Stack", "ours-corrected", 8, places)
    policy = train("Stack", "ours", 8, places, places.dataset("Stack"))
    takeover = Takeover(policy=str(policy), steps=benchmark.CORRECTED_STEPS)
    name = f"robosuite_Stack_corrections_of_{policy.name}"
    assert recorded == [(name, "Stack", 0, benchmark.CORRECTIONS, benchmark.CORRECTED_SEED, takeover)]
    assert LeRobotDataset("test/whole", root=found).meta.total_episodes == len(LENGTHS) + 1
    # Made once; another policy is corrected anew.
    assert benchmark.dataset_of("Stack", "ours-corrected", 8, places) == found and len(recorded) == 1
    assert benchmark.dataset_of("Stack", "ours-corrected", 9, places) != found and len(recorded) == 2


def test_corrections_change_the_data_and_nothing_else():
    plain, corrected = (benchmark.recipe_of("Stack", name) for name in ("ours", "ours-corrected"))
    assert corrected.corrects == "ours" and benchmark.replace(corrected, corrects=None) == plain


def test_figures_are_counted_and_written_beside_each_other(places, tmp_path):
    (tmp_path / benchmark.BUDGET).write_text(json.dumps({"report": {"steps": 7}, "caching_minutes": 2.0}))
    trials = [{"task": "Lift", "seed": seed, "success": seed != 3, "steps": 10 * seed} for seed in range(1, 5)]
    value = benchmark.entry(trials, tmp_path)
    assert (value["successes"], value["episodes"], value["failed_seeds"]) == (3, 4, [3])
    assert value["steps_of_successes_median"] == 20 and value["training"] == {"steps": 7, "caching_minutes": 2.0}
    for name in ("ours", "act"):
        benchmark.write_entry(places.json, ("robosuite", "Lift", name, "none"), value)
    row = benchmark.markdown(places.json).splitlines()[-1]
    assert row.split("|")[1:3] == [" Lift ", " none "] and row.count("3/4 (30-95 %)") == 2


def test_one_policy_for_many_tasks_is_counted_by_task(tmp_path):
    (tmp_path / benchmark.BUDGET).write_text(json.dumps({"report": {}, "caching_minutes": 0.0}))
    trials = [
        {"task": task, "seed": seed, "success": success, "steps": 5}
        for task, outcomes in {"reach-v3": (True, False), "push-v3": (False, False)}.items()
        for seed, success in enumerate(outcomes)
    ]
    assert benchmark.entry(trials, tmp_path)["successes_by_task"] == {"reach-v3": "1/2", "push-v3": "0/2"}


def test_a_line_that_a_kill_left_unfinished_is_forgotten(tmp_path):
    log = tmp_path / "episodes.jsonl"
    assert benchmark.trials_in(log) == []
    log.write_text('{"seed": 1}\n{"seed": 2}\n{"see')
    assert benchmark.trials_in(log) == [{"seed": 1}, {"seed": 2}]
    assert log.read_text() == '{"seed": 1}\n{"seed": 2}\n'


def test_the_readmes_figures_are_the_measured_ones():
    """A row of README.md that shows the command of a success rate has the rate of that command."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "policies.json").read_text())
    rows = [row for row in (ROOT / "README.md").read_text().splitlines() if row.startswith("|") and "--tasks" in row]
    assert len(rows) >= 7
    for row in rows:
        task = re.search(r"--tasks (\w+)", row)[1]
        policy = (re.search(r"--policies (\S+?)`", row) or ["", "ours"])[1]
        value = figures[benchmark.suite_of(task)][task][policy]["none"]
        assert f"{value['successes']} of {value['episodes']}" in row, row
        low, high = re.search(r"(0\.\d+)-([01](?:\.\d+)?) \|$", row).groups()
        assert (float(low), float(high)) == tuple(round(bound, 2) for bound in value["wilson_95"]), row
