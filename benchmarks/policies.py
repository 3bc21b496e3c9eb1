"""Train policies on expert demonstrations and count their successes on seeds they never saw.

    python -m benchmarks.policies --tasks Lift --policies ours act --episodes 50
    python -m benchmarks.policies --tasks Lift --policies ours act --stress
    python -m benchmarks.policies --tasks Stack --policies ours-corrected
    python -m benchmarks.policies --tasks MT10                   # one policy for ten tasks, told which in words
    python -m benchmarks.policies --table

Recipes are in training/policies.py. Every finished part is kept (demonstrations in ``--data``; features, policies and
episodes in ``--runs``; figures in ``--json``), so the command goes on where it was stopped; another backbone, recipe,
budget or set of demonstrations begins anew. Budgets are processor time of one thread: policies that learn from cached
features get ``--minutes``, all others that plus what caching took.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets.dataset_tools import merge_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.envs import close_envs
from lerobot.envs.utils import env_to_policy_features
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.utils.io_utils import write_video

from benchmarks.cached_features import cached_features, short_hash
from lerobot_env_omnistream import MetaworldEnvConfig, RobosuiteEnvConfig
from lerobot_env_omnistream.environments import EnvConfig
from lerobot_env_omnistream.recording import record
from lerobot_env_omnistream.takeover import Takeover, load_policy
from lerobot_policy_omnistream.encoder import build_encoder
from lerobot_policy_omnistream.feature_cache import dataset_hash, write_whole
from lerobot_policy_omnistream.training import TrainSettings, train_policy
from training.policies import (
    CORRECTED_STEPS,
    CORRECTIONS,
    METAWORLD_IMAGE_SIZE_PX,
    METAWORLD_SETS,
    NOISE,
    PERTURBATIONS,
    POLICIES,
    TASKS,
    PolicyRecipe,
)

# Of clean demonstrations, noisy ones, corrections, and evaluation.
CLEAN_SEED, NOISY_SEED, CORRECTED_SEED, FIRST_SEED = 0, 2_000, 5_000, 10_000
# In a trained policy's folder: what it was given. Written last.
BUDGET = "budget.json"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things lie: demonstrations, what is kept between runs, figures and videos."""

    data: Path
    runs: Path
    json: Path

    @property
    def videos(self) -> Path:
        return self.json.with_name(f"{self.json.stem}_videos")

    def dataset(self, task: str, which: str = "") -> Path:
        return self.data / f"{suite_of(task)}_{task}{which}"


def suite_of(task: str) -> str:
    return "metaworld" if task in METAWORLD_SETS else "robosuite"


def environment(task: str, perturbation: str = "none") -> EnvConfig:
    if task in METAWORLD_SETS:
        return MetaworldEnvConfig(task=task, image_size_px=METAWORLD_IMAGE_SIZE_PX)
    return RobosuiteEnvConfig(task=task, **PERTURBATIONS[perturbation])


def cameras_of(env: EnvConfig) -> list[str]:
    return [key for key in env.features_map.values() if key.startswith("observation.image")]


def recipe_of(task: str, name: str) -> PolicyRecipe:
    """The policy's recipe for a task; ours have settings for each."""
    recipe = POLICIES[name]
    if recipe.kind != "omnistream":
        return recipe
    return replace(recipe, settings=recipe.settings | TASKS[task].settings)


def wilson(successes: int, episodes: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a success rate (Wilson, 1927)."""
    rate, spread = successes / episodes, z * z / episodes
    centre = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / episodes + spread / (4 * episodes))
    return max(0.0, centre - half), min(1.0, centre + half)


# ---- demonstrations ----


def dataset_of(task: str, name: str, minutes: float, places: Places) -> Path:
    """What a policy learns from: the demonstrations, and corrections of another policy where its recipe says so."""
    corrects = POLICIES[name].corrects
    if corrects is None:
        return demonstrated(task, places)
    before = dataset_of(task, corrects, minutes, places)
    corrected = train(task, corrects, minutes, places, before)
    corrections, whole = (
        places.dataset(task, f"_{what}_{corrected.name}") for what in ("corrections_of", "with_corrections_of")
    )
    if not whole.exists():
        takeover = Takeover(policy=str(corrected), steps=CORRECTED_STEPS)
        record(environment(task), CORRECTIONS, corrections, first_seed=CORRECTED_SEED, takeover=takeover)
        merge([before, corrections], whole)
    return whole


def demonstrated(task: str, places: Places) -> Path:
    """The task's demonstrations, recorded where they are missing."""
    recipe, whole = TASKS[task], places.dataset(task)
    if whole.exists():
        return whole
    env = environment(task)
    if not recipe.noisy:
        return record(env, recipe.clean, whole, first_seed=CLEAN_SEED)
    clean = record(env, recipe.clean, places.dataset(task, "_clean"), first_seed=CLEAN_SEED)
    disturbed = replace(env, stress_action_noise=NOISE)
    noisy = record(disturbed, recipe.noisy, places.dataset(task, "_noisy"), first_seed=NOISY_SEED)
    merge([clean, noisy], whole)
    return whole


def merge(parts: Sequence[Path], out: Path) -> None:
    """Joins LeRobotDatasets into one, whole or not at all."""
    unfinished = out.with_name(f"{out.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    merge_datasets([LeRobotDataset("local/dataset", root=part) for part in parts], "local/dataset", unfinished)
    unfinished.rename(out)


# ---- training ----


def config_of(recipe: PolicyRecipe, **more: Any) -> PreTrainedConfig:
    settings = dict(recipe.settings) | {"device": "cpu", "push_to_hub": False} | more
    if "normalization_mapping" in settings:
        from lerobot.configs import NormalizationMode

        settings["normalization_mapping"] = {
            kind: NormalizationMode(mode) for kind, mode in settings["normalization_mapping"].items()
        }
    return PreTrainedConfig.get_choice_class(recipe.kind)(**settings)


def features(task: str, recipe: PolicyRecipe, root: Path, places: Places) -> tuple[Path, float]:
    """A dataset's feature cache for a recipe's backbone, and the processor minutes it took."""
    return cached_features(root, build_encoder(config_of(recipe)), cameras_of(environment(task)), places.runs / task)


def train(task: str, name: str, minutes: float, places: Places, dataset: Path) -> Path:
    """The trained policy's folder; trains it where it is missing."""
    recipe = recipe_of(task, name)
    cache, caching_minutes = features(task, recipe if recipe.cached else recipe_of(task, "ours"), dataset, places)
    # The cache knows the dataset, and so whatever corrections are in it.
    made_of = [{key: value for key, value in asdict(recipe).items() if key != "corrects"}, minutes, cache.name]
    out = places.runs / task / f"{name}_{short_hash(made_of)}"
    if (out / BUDGET).exists():
        return out
    if recipe.cached:
        config = config_of(recipe, feature_cache=str(cache))
    else:
        config, minutes = config_of(recipe), minutes + caching_minutes
        only_used_features(config, environment(task))
    settings = TrainSettings(minutes=minutes, batch_size=recipe.batch_size)
    *_, report = train_policy(config, dataset, settings, out, show=partial(say_step, f"{task} {name}"))
    note = {"caching_minutes": caching_minutes, "settings": asdict(settings), "report": asdict(report)}
    write_whole(out / BUDGET, json.dumps(note, indent=1))
    return out


def only_used_features(config: PreTrainedConfig, env: EnvConfig) -> None:
    """Images and proprioception for LeRobot's own policies; they would take camera poses for proprioception."""
    declared = env_to_policy_features(env)
    config.input_features = {key: declared[key] for key in [*cameras_of(env), "observation.state"]}


def say_step(name: str, step: int, progress: float, loss: float) -> None:
    if step % 100 == 0:
        print(f"{name}: step {step}, {100 * progress:.0f} %, loss {loss:.4f}", flush=True)


# ---- evaluation ----


def evaluate(
    task: str, name: str, perturbation: str, seeds: Sequence[int], policy_folder: Path, places: Places
) -> dict[str, Any]:
    """Runs the episodes that were not run yet, one environment at a time; the entry for the table."""
    world = environment(task, perturbation)
    log = policy_folder / f"episodes_{perturbation}_{short_hash(world.settings())}.jsonl"
    trials = trials_in(log)
    video = places.videos / f"{task}_{name}_{perturbation}"
    for env in world.single_tasks():
        done = {trial["seed"] for trial in trials if trial["task"] == env.task}
        missing = [seed for seed in seeds if seed not in done]
        if not missing:
            continue
        runner = Runner(env, policy_folder)
        for seed in missing:
            wanted = {True, False} - {trial["success"] for trial in trials}
            trials.append({"task": env.task, **runner(seed, video, wanted)})
            with log.open("a") as file:
                file.write(json.dumps(trials[-1]) + "\n")
            print(f"{name} {perturbation}: {trials[-1]}", flush=True)
        runner.close()
    return entry([trial for trial in trials if trial["seed"] in seeds], policy_folder)


def trials_in(log: Path) -> list[dict[str, Any]]:
    """The episodes of a log; a line that a kill left unfinished is taken out of it."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        write_whole(log, "".join(whole))
    return [json.loads(line) for line in whole]


def entry(trials: list[dict], policy_folder: Path) -> dict[str, Any]:
    successes, tasks = [trial for trial in trials if trial["success"]], Counter(trial["task"] for trial in trials)
    training = json.loads((policy_folder / BUDGET).read_text())
    result = {
        "episodes": len(trials),
        "successes": len(successes),
        "success_rate": len(successes) / len(trials),
        "wilson_95": [round(bound, 4) for bound in wilson(len(successes), len(trials))],
        "steps_of_successes_median": float(np.median([t["steps"] for t in successes])) if successes else None,
        "training": training["report"] | {"caching_minutes": training["caching_minutes"]},
    }
    if len(tasks) == 1:
        return result | {"failed_seeds": sorted(trial["seed"] for trial in trials if not trial["success"])}
    won = Counter(trial["task"] for trial in successes)
    return result | {"successes_by_task": {task: f"{won[task]}/{tasks[task]}" for task in tasks}}


class Runner:
    """One policy in one environment, as lerobot-eval runs it."""

    def __init__(self, env: EnvConfig, policy_folder: Path) -> None:
        self._env_config, self._cameras = env, cameras_of(env)
        self._envs, self._loaded = env.create_envs(1), load_policy(str(policy_folder), env)
        self._frames: list[np.ndarray] = []

    def __call__(self, seed: int, video: Path, wanted: set[bool]) -> dict:
        """One episode; a video of it where its outcome is among the wanted ones."""
        self._frames = []
        (vectors,), loaded = self._envs.values(), self._loaded
        outcome = rollout(
            vectors[0], loaded.policy, self._watch, loaded.env_after, loaded.before, loaded.after, seeds=[seed]
        )
        success, steps = bool(outcome["success"].any()), int(outcome["done"].int().argmax()) + 1
        if success in wanted:
            video.parent.mkdir(parents=True, exist_ok=True)
            write_video(f"{video}_{'success' if success else 'failure'}.mp4", self._frames, self._env_config.fps)
        return {"seed": seed, "success": success, "steps": steps}

    def close(self) -> None:
        close_envs(self._envs)

    def _watch(self, observation: dict) -> dict:
        """The environment's own processor; keeps what the cameras saw, side by side."""
        images = [observation[camera][0] for camera in self._cameras]
        self._frames.append((torch.cat(images, dim=-1).permute(1, 2, 0) * 255).round().byte().numpy())
        return self._loaded.env_before(observation)


# ---- the table ----


def markdown(path: Path) -> str:
    """Successes with their 95 % intervals: a row for each task and perturbation, a column for each policy."""
    rows = {
        (task, perturbation): {name: found.get(perturbation) for name, found in policies.items()}
        for suite in json.loads(path.read_text()).values()
        for task, policies in suite.items()
        for perturbation in PERTURBATIONS
        if any(perturbation in found for found in policies.values())
    }
    names = [name for name in POLICIES if any(row.get(name) for row in rows.values())]
    lines = [f"| task | perturbation | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for (task, perturbation), row in rows.items():
        lines.append(f"| {task} | {perturbation} | {' | '.join(cell(row.get(name)) for name in names)} |")
    return "\n".join(lines)


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = (round(100 * bound) for bound in found["wilson_95"])
    return f"{found['successes']}/{found['episodes']} ({low}-{high} %)"


def write_entry(path: Path, key: tuple[str, ...], value: dict) -> None:
    """Puts a value into the nested table, whole or not at all."""
    table = json.loads(path.read_text()) if path.exists() else {}
    place = table
    for part in key[:-1]:
        place = place.setdefault(part, {})
    place[key[-1]] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(table, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["Lift"], choices=list(TASKS))
    parser.add_argument("--policies", nargs="+", default=["ours"], choices=sorted(POLICIES))
    parser.add_argument("--stress", action="store_true", help="under every perturbation instead of none; robosuite")
    parser.add_argument("--episodes", type=int, default=50, help="in all, shared among the tasks of a set")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--minutes", type=float, help="training, processor time; the recipe's unless given")
    parser.add_argument(
        "--data", type=Path, default=Path("runs/datasets"), help="<suite>_<task> datasets, recorded where missing"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/policies"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/policies.json"))
    parser.add_argument("--table", action="store_true", help="only print the figures in --json, as Markdown")
    arguments = parser.parse_args()
    sets = [task for task in arguments.tasks if task in METAWORLD_SETS]
    if arguments.stress and sets:
        parser.error(f"--stress is for robosuite; {', '.join(sets)} cannot be perturbed")
    return arguments


def run_task(task: str, arguments: argparse.Namespace) -> None:
    """Trains and evaluates each policy."""
    places = Places(data=arguments.data, runs=arguments.runs, json=arguments.json)
    minutes = float(arguments.minutes or TASKS[task].minutes)
    each = max(1, arguments.episodes // len(environment(task).single_tasks()))
    seeds = range(arguments.first_seed, arguments.first_seed + each)
    perturbations = [name for name in PERTURBATIONS if name != "none"] if arguments.stress else ["none"]
    for name in arguments.policies:
        dataset = dataset_of(task, name, minutes, places)
        folder = train(task, name, minutes, places, dataset)
        for perturbation in perturbations:
            value = evaluate(task, name, perturbation, seeds, folder, places)
            value["demonstrations"] = demonstrations(dataset)
            value["recipe"] = asdict(recipe_of(task, name)) | {"minutes": minutes}
            value["command"] = (
                f"python -m benchmarks.policies --tasks {task} --policies {name} --minutes {minutes:g} "
                f"--episodes {arguments.episodes}" + " --stress" * arguments.stress
            )
            write_entry(places.json, (suite_of(task), task, name, perturbation), value)


def demonstrations(dataset: Path) -> dict[str, Any]:
    """How much a policy learned from."""
    info = json.loads((dataset / "meta" / "info.json").read_text())
    return {"episodes": info["total_episodes"], "frames": info["total_frames"], "hash": dataset_hash(dataset)}


def main() -> None:
    arguments = parse_arguments()
    if arguments.table:
        print(markdown(arguments.json))
        return
    register_third_party_plugins()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for task in arguments.tasks:
        run_task(task, arguments)


if __name__ == "__main__":
    main()
