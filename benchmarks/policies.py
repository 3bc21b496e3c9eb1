"""Train policies on expert demonstrations and count their successes on seeds they never saw.

    python -m benchmarks.policies --tasks Lift --policies ours act --episodes 50
    python -m benchmarks.policies --tasks Lift --policies ours act --stress

Every finished part is kept (features, policies and episodes in ``--runs``, figures in ``--json``), so the command goes
on where it was stopped. Budgets are processor time of one thread: policies that learn from cached features get
``--minutes``, all others that plus what caching took.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.envs import close_envs, make_env_pre_post_processors
from lerobot.policies import make_pre_post_processors
from lerobot.policies.factory import get_policy_class
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.utils.io_utils import write_video

from lerobot_env_omnistream import RobosuiteEnvConfig
from lerobot_policy_omnistream.encoder import build_encoder
from lerobot_policy_omnistream.feature_cache import build_feature_cache, open_blocks
from lerobot_policy_omnistream.training import TrainSettings, train_policy
from training.policies import PERTURBATIONS, POLICIES, ROBOSUITE_TASKS, PolicyRecipe

# Demonstrations have seeds from 0 up.
FIRST_SEED = 10_000


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things lie: demonstrations, what is kept between runs, figures and videos."""

    data: Path
    runs: Path
    json: Path

    @property
    def videos(self) -> Path:
        return self.json.with_name(f"{self.json.stem}_videos")


def wilson(successes: int, episodes: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a success rate (Wilson, 1927)."""
    rate, spread = successes / episodes, z * z / episodes
    centre = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / episodes + spread / (4 * episodes))
    return max(0.0, centre - half), min(1.0, centre + half)


# ---- training ----


def config_of(recipe: PolicyRecipe, **more: Any) -> PreTrainedConfig:
    settings = dict(recipe.settings) | {"device": "cpu", "push_to_hub": False} | more
    if "normalization_mapping" in settings:
        from lerobot.configs import NormalizationMode

        settings["normalization_mapping"] = {
            kind: NormalizationMode(mode) for kind, mode in settings["normalization_mapping"].items()
        }
    return PreTrainedConfig.get_choice_class(recipe.kind)(**settings)


def features(task: str, recipe: PolicyRecipe, places: Places) -> tuple[Path, float]:
    """The feature cache of a task for a recipe's backbone, made where it is missing; processor minutes it took."""
    root, encoder = places.data / f"robosuite_{task}", build_encoder(config_of(recipe))
    out = places.runs / task / f"features_{encoder.key()['backbone']}"
    cost = out.with_suffix(".json")
    spent_s = json.loads(cost.read_text())["processor_s"] if cost.exists() else 0.0
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        cameras = [f"observation.images.{camera}" for camera in RobosuiteEnvConfig(task=task).cameras]
        before_s = spent_s - time.process_time()

        def show(done: int) -> None:
            cost.write_text(json.dumps({"processor_s": before_s + time.process_time()}))

        build_feature_cache(open_blocks("local/dataset", root, cameras), encoder, out, cameras=cameras, show=show)
        spent_s = json.loads(cost.read_text())["processor_s"]
    return out, spent_s / 60


def train(task: str, name: str, minutes: float, places: Places) -> Path:
    """The trained policy's folder; trains it where it is missing."""
    recipe, out = POLICIES[name], places.runs / task / name
    if (out / "training.json").exists():
        return out
    cache, caching_minutes = features(task, recipe if recipe.cached else POLICIES["ours"], places)
    if recipe.cached:
        config = config_of(recipe, feature_cache=str(cache))
    else:
        config, minutes = config_of(recipe), minutes + caching_minutes
        only_used_features(config, task)
    settings = TrainSettings(minutes=minutes, batch_size=recipe.batch_size)
    train_policy(config, places.data / f"robosuite_{task}", settings, out, show=partial(say_step, f"{task} {name}"))
    note = json.loads((out / "training.json").read_text()) | {"caching_minutes": caching_minutes}
    (out / "training.json").write_text(json.dumps(note, indent=1))
    return out


def only_used_features(config: PreTrainedConfig, task: str) -> None:
    """Images and proprioception for LeRobot's own policies; they would take camera poses for proprioception."""
    from lerobot.configs import FeatureType, PolicyFeature

    env = RobosuiteEnvConfig(task=task)
    size = (3, env.image_height_px, env.image_width_px)
    state_size = env.features["agent_pos"].shape
    config.input_features = {
        f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, size) for camera in env.cameras
    } | {"observation.state": PolicyFeature(FeatureType.STATE, state_size)}


def say_step(name: str, step: int, steps: int, loss: float) -> None:
    if step % 100 == 0:
        print(f"{name}: step {step} of {steps}, loss {loss:.4f}", flush=True)


# ---- evaluation ----


def evaluate(task: str, name: str, perturbation: str, episodes: int, policy_folder: Path, places: Places) -> dict:
    """Runs the seeds that were not run yet, one environment at a time; the entry for the table."""
    log = policy_folder / f"episodes_{perturbation}.jsonl"
    trials = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    missing = [seed for seed in range(FIRST_SEED, FIRST_SEED + episodes) if seed not in {t["seed"] for t in trials}]
    if missing:
        run = Runner(task, perturbation, policy_folder)
        for seed in missing:
            wanted = {True, False} - {trial["success"] for trial in trials}
            trials.append(run(seed, places.videos / f"{task}_{name}_{perturbation}", wanted))
            with log.open("a") as file:
                file.write(json.dumps(trials[-1]) + "\n")
            print(f"{task} {name} {perturbation}: {trials[-1]}", flush=True)
        run.close()
    trials = [trial for trial in trials if trial["seed"] < FIRST_SEED + episodes]
    return entry(trials, policy_folder)


def entry(trials: list[dict], policy_folder: Path) -> dict:
    successes = [trial for trial in trials if trial["success"]]
    training = json.loads((policy_folder / "training.json").read_text())
    return {
        "episodes": len(trials),
        "successes": len(successes),
        "success_rate": len(successes) / len(trials),
        "wilson_95": [round(bound, 4) for bound in wilson(len(successes), len(trials))],
        "failed_seeds": sorted(trial["seed"] for trial in trials if not trial["success"]),
        "steps_of_successes_median": float(np.median([t["steps"] for t in successes])) if successes else None,
        "training": training["report"] | {"caching_minutes": training["caching_minutes"]},
    }


class Runner:
    """One policy in one environment, as lerobot-eval runs it."""

    def __init__(self, task: str, perturbation: str, policy_folder: Path) -> None:
        self._env_config = RobosuiteEnvConfig(task=task, **PERTURBATIONS[perturbation])
        self._envs = self._env_config.create_envs(1)
        config = PreTrainedConfig.from_pretrained(policy_folder)
        self._policy = get_policy_class(config.type).from_pretrained(policy_folder, config=config)
        self._processors = make_pre_post_processors(config, pretrained_path=str(policy_folder))
        self._env_processors = make_env_pre_post_processors(env_cfg=self._env_config, policy_cfg=config)
        self._frames: list[np.ndarray] = []

    def __call__(self, seed: int, video: Path, wanted: set[bool]) -> dict:
        """One episode; a video of it where its outcome is among the wanted ones."""
        self._frames = []
        vector = self._envs["robosuite"][0]
        outcome = rollout(vector, self._policy, self._watch, self._env_processors[1], *self._processors, seeds=[seed])
        success, steps = bool(outcome["success"].any()), int(outcome["done"].int().argmax()) + 1
        if success in wanted:
            video.parent.mkdir(parents=True, exist_ok=True)
            write_video(f"{video}_{'success' if success else 'failure'}.mp4", self._frames, self._env_config.fps)
        return {"seed": seed, "success": success, "steps": steps}

    def close(self) -> None:
        close_envs(self._envs)

    def _watch(self, observation: dict) -> dict:
        """The environment's own processor; keeps what the cameras saw, side by side."""
        images = [observation[f"observation.images.{camera}"][0] for camera in self._env_config.cameras]
        self._frames.append((torch.cat(images, dim=-1).permute(1, 2, 0) * 255).round().byte().numpy())
        return self._env_processors[0](observation)


# ---- the table ----


def write_entry(path: Path, key: tuple[str, ...], value: dict) -> None:
    """Puts a value into the nested table, whole or not at all."""
    table = json.loads(path.read_text()) if path.exists() else {}
    place = table
    for part in key[:-1]:
        place = place.setdefault(part, {})
    place[key[-1]] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(table, indent=1) + "\n")
    temporary.replace(path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["Lift"], choices=ROBOSUITE_TASKS)
    parser.add_argument("--policies", nargs="+", default=["ours"], choices=sorted(POLICIES))
    parser.add_argument("--stress", action="store_true", help="under every perturbation instead of none")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=20, help="training, processor time")
    parser.add_argument("--data", type=Path, default=Path("runs/datasets"), help="folder of robosuite_<Task> datasets")
    parser.add_argument("--runs", type=Path, default=Path("runs/policies"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/policies.json"))
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    places = Places(data=arguments.data, runs=arguments.runs, json=arguments.json)
    register_third_party_plugins()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    perturbations = [name for name in PERTURBATIONS if name != "none"] if arguments.stress else ["none"]
    for task in arguments.tasks:
        for name in arguments.policies:
            folder = train(task, name, arguments.minutes, places)
            for perturbation in perturbations:
                value = evaluate(task, name, perturbation, arguments.episodes, folder, places)
                value["recipe"] = asdict(POLICIES[name]) | {"minutes": arguments.minutes}
                value["command"] = f"python -m benchmarks.policies --tasks {task} --policies {name}" + (
                    " --stress" if arguments.stress else ""
                )
                write_entry(places.json, ("robosuite", task, name, perturbation), value)


if __name__ == "__main__":
    sys.exit(main())
