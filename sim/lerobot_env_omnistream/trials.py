"""How often an expert succeeds: many episodes, physics only, over a few processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lerobot_env_omnistream.environments import EnvConfig, RecordedEnv, config_from_json, config_to_json


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One episode of an expert."""

    seed: int
    success: bool
    steps: int
    # The largest change of a motion command from one step to the next, as a fraction of its range.
    largest_change: float


def run_trial(env: RecordedEnv, seed: int) -> Trial:
    """Resets the environment with ``seed`` and lets the expert act until the episode ends."""
    env.reset(seed=seed)
    expert = env.make_expert(seed)
    actions, ended, success = [], False, False
    while not ended:
        actions.append(expert.act())
        _, _, success, truncated, _ = env.step(actions[-1])
        ended = success or truncated
    changes = np.abs(np.diff([action[:-1] for action in actions], axis=0))
    return Trial(seed=seed, success=success, steps=len(actions), largest_change=float(changes.max(initial=0)) / 2)


def run_trials(config: EnvConfig, seeds: range, workers: int = 1) -> Iterator[Trial]:
    """The trials in the order of their seeds, as they get done."""
    settings = config_to_json(config)
    if workers == 1:
        yield from (_trial_in_process(settings, seed) for seed in seeds)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
        yield from pool.map(_trial_in_process, [settings] * len(seeds), seeds)


def _trial_in_process(settings: str, seed: int) -> Trial:
    return run_trial(env_of_process(settings), seed)


@lru_cache(maxsize=1)
def env_of_process(settings: str) -> RecordedEnv:
    """The one environment of a worker process, from its settings as JSON: building it costs seconds."""
    return config_from_json(settings).make_env()


def summarise(task: str, trials: list[Trial], seconds: float) -> dict[str, Any]:
    """Plain figures of the trials, ready for JSON."""
    successes = [trial for trial in trials if trial.success]
    return {
        "task": task,
        "episodes": len(trials),
        "successes": len(successes),
        "success_rate": len(successes) / len(trials) if trials else None,
        "failed_seeds": [trial.seed for trial in trials if not trial.success],
        "steps_of_successes": _spread([trial.steps for trial in successes]),
        "largest_change": max((trial.largest_change for trial in trials), default=None),
        "steps_per_second": sum(trial.steps for trial in trials) / seconds,
        "trials": [asdict(trial) for trial in trials],
    }


def _spread(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def timed_trials(
    config: EnvConfig, seeds: range, workers: int, show: Callable[[Trial], None] = lambda trial: None
) -> dict[str, Any]:
    """Runs and summarises; ``show`` is called after each trial."""
    started, trials = time.monotonic(), []
    for trial in run_trials(config, seeds, workers):
        trials.append(trial)
        show(trial)
    return summarise(config.task, trials, time.monotonic() - started)
