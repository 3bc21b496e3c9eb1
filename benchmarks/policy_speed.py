"""How fast a policy trains, from cached features against end to end, and how long a step of the deployed policy takes.

    python -m benchmarks.policy_speed --data runs/datasets/robosuite_Lift --features runs/policies/Lift/features_...

One process, one thread, the same head and batch size. Computed features come twice: of images decoded once and
held in memory, and as lerobot-train reads them, decoded anew in every step, there also with the backbone trained.
Wall-clock time: run it on an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies import make_policy, make_pre_post_processors

from lerobot_policy_omnistream import OmnistreamConfig
from lerobot_policy_omnistream.table import FrameTable
from omnistream_core.bench.machine import machine

REPO = "local/dataset"


def batches_in_memory(root: Path, config: OmnistreamConfig, batch_size: int, images: bool) -> Iterator[dict]:
    table = FrameTable(root, config, episodes=(0, 1, 2, 3), images=images)
    while True:
        yield table.batch(table.frames[torch.randint(len(table.frames), (batch_size,))])


def batches_decoded(root: Path, config: OmnistreamConfig, batch_size: int, meta: Any) -> Iterator[dict]:
    dataset = LeRobotDataset(REPO, root=root, delta_timestamps=resolve_delta_timestamps(config, meta))
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def samples_per_s(config: OmnistreamConfig, meta: Any, batches: Iterator[dict], seconds: float) -> float:
    """Of whole training steps, loading included; the first step is left out."""
    torch.manual_seed(0)
    policy = make_policy(config, ds_meta=meta)
    before, _ = make_pre_post_processors(config, dataset_stats=meta.stats)
    optimizer = config.get_optimizer_preset().build(policy.get_optim_params())
    policy.train()
    samples, started = -1, 0.0
    while samples < 1 or time.perf_counter() - started < seconds:
        batch = before(next(batches))
        policy(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        if samples < 0:
            samples, started = 0, time.perf_counter()
        else:
            samples += len(batch["action"])
    return samples / (time.perf_counter() - started)


def training_speeds(root: Path, features: Path, batch_size: int, seconds: float) -> dict[str, float]:
    meta = LeRobotDataset(REPO, root=root).meta
    ways: dict[str, tuple[dict[str, Any], Callable[[OmnistreamConfig], Iterator[dict]]]] = {
        "cached features": ({"feature_cache": str(features)}, lambda c: batches_in_memory(root, c, batch_size, False)),
        "computed, images in memory": ({}, lambda c: batches_in_memory(root, c, batch_size, True)),
        "computed, videos decoded": ({}, lambda c: batches_decoded(root, c, batch_size, meta)),
        "backbone trained, videos decoded": (
            {"freeze_backbone": False},
            lambda c: batches_decoded(root, c, batch_size, meta),
        ),
    }
    speeds = {}
    for name, (settings, batches) in ways.items():
        config = OmnistreamConfig(device="cpu", push_to_hub=False, **settings)
        speeds[name] = samples_per_s(config, meta, batches(config), seconds)
        print(f"{name}: {speeds[name]:.1f} samples/s", flush=True)
    return speeds


def step_latency_ms(root: Path, head: str, steps: int) -> dict[str, float]:
    """Of ``select_action`` with both cameras, observation to action; a step that plans, and one that carries out."""
    meta = LeRobotDataset(REPO, root=root).meta
    config = OmnistreamConfig(device="cpu", push_to_hub=False, head=head)
    policy = make_policy(config, ds_meta=meta).eval()
    planning: list[float] = []
    others: list[float] = []
    for step in range(steps):
        seen = {key: torch.rand(1, *feature.shape) for key, feature in config.input_features.items()}
        started = time.perf_counter()
        with torch.inference_mode():
            policy.select_action(seen)
        elapsed_ms = 1e3 * (time.perf_counter() - started)
        (others if step % config.n_action_steps else planning).append(elapsed_ms)
    everything = np.array(planning[1:] + others)
    return {
        "p50": float(np.percentile(everything, 50)),
        "p95": float(np.percentile(everything, 95)),
        "planning_p50": float(np.percentile(planning[1:], 50)),
        "carrying_out_p50": float(np.percentile(others, 50)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/datasets/robosuite_Lift"))
    parser.add_argument("--features", type=Path, required=True, help="feature cache of the default settings")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15, help="for each way to train")
    parser.add_argument("--steps", type=int, default=160, help="for each latency")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/policy_speed.json"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    speeds = training_speeds(arguments.data, arguments.features, arguments.batch_size, arguments.seconds)
    latency = {head: step_latency_ms(arguments.data, head, arguments.steps) for head in ("regression", "flow", "mlp")}
    print(json.dumps(latency))
    result = {
        "machine": f"{machine()}, 1 thread, torch {torch.__version__}",
        "batch_size": arguments.batch_size,
        "samples_per_s": speeds,
        "cached_over_end_to_end": {name: speeds["cached features"] / speed for name, speed in speeds.items()},
        "step_latency_ms": latency,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
