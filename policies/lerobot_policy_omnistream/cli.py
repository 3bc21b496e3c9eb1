"""The commands ``omnistream-cache-features`` and ``omnistream-train-policy``.

Bad input gets one clear line and exit code 2.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import draccus
import typer
import yaml
from draccus.utils import DecodingError, DraccusException
from lerobot.configs import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lerobot_policy_omnistream.errors import PolicyError
from omnistream_core.errors import OmniStreamError

Dataset = Annotated[Path, typer.Argument(help="Folder of a LeRobotDataset (v3).")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the policy, e.g. stream_frames=8 or head=flow."),
]


def cache_features(
    dataset: Dataset,
    out: Annotated[Path | None, typer.Option(help="Folder of the cache; DATASET/features by default.")] = None,
    cameras: Annotated[list[str] | None, typer.Option("--camera", help="Camera key; all by default.")] = None,
    copies: Annotated[int, typer.Option(help="1, or more to add augmented copies.", min=1)] = 1,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    setting: Fields = None,
) -> None:
    """Stream every episode of DATASET once through a backbone and keep its features."""
    from lerobot_policy_omnistream.encoder import build_encoder
    from lerobot_policy_omnistream.feature_cache import DTYPES, build_feature_cache, open_blocks

    if dtype not in DTYPES:
        raise PolicyError(f"dtype is {dtype!r}; choose from {', '.join(DTYPES)}")
    meta = _meta(dataset)
    chosen = cameras or list(meta.camera_keys)
    for camera in chosen:
        if camera not in meta.camera_keys:
            raise PolicyError(f"{dataset} has no camera {camera!r}; it has: {', '.join(meta.camera_keys)}")
    encoder = build_encoder(_policy_config("omnistream", setting, device=device)).to(device)
    blocks = open_blocks("local/dataset", dataset, chosen)
    place = out or dataset / "features"
    with _bar() as bar:
        row = bar.add_task("episodes", total=meta.total_episodes)
        build_feature_cache(
            blocks,
            encoder,
            place,
            cameras=chosen,
            copies=copies,
            dtype=dtype,
            show=lambda done: bar.update(row, completed=done),
        )
    print(f"features of {meta.total_frames} frames, {len(chosen)} cameras, {copies} copies in {place}")


def train(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="Folder for the policy.")],
    policy: Annotated[str, typer.Option(help="omnistream, or any policy type of LeRobot.")] = "omnistream",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="Processor time instead of steps.")] = None,
    batch_size: Annotated[int, typer.Option(help="Samples a step.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of weights and samples.")] = 0,
    episodes: Annotated[str | None, typer.Option(help="Such as 0-7,9; all by default.")] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    setting: Fields = None,
) -> None:
    """Train a policy on DATASET, held in memory, from cached features where feature_cache names them."""
    from lerobot_policy_omnistream.training import TrainSettings, parse_episodes, train_policy

    _meta(dataset)
    settings = TrainSettings(
        steps=steps, minutes=minutes, batch_size=batch_size, seed=seed, episodes=parse_episodes(episodes)
    )
    config = _policy_config(policy, setting, device=device, push_to_hub="false")
    with _bar() as bar:
        row = bar.add_task("training", total=1)

        def show(step: int, progress: float, loss: float) -> None:
            bar.update(row, completed=progress, description=f"step {step}, loss {loss:.3f}")

        *_, report = train_policy(config, dataset, settings, out, show)
    print(f"{report.steps} steps, loss {report.loss:.4f}, {report.samples_per_s:.0f} samples/s; policy in {out}")


def _meta(dataset: Path) -> Any:
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    if not (dataset / "meta" / "info.json").exists():
        raise PolicyError(f"{dataset} is no LeRobotDataset: there is no meta/info.json")
    return LeRobotDatasetMetadata("local/dataset", root=dataset)


def _policy_config(kind: str, pairs: list[str] | None, **fixed: str) -> PreTrainedConfig:
    """The settings of a policy type with fields changed, as LeRobot's own command line would read them."""
    known = PreTrainedConfig.get_known_choices()
    if kind not in known:
        raise PolicyError(f"unknown policy {kind!r}; known: {', '.join(known)}")
    for pair in pairs or []:
        if "=" not in pair:
            raise PolicyError(f"--set {pair!r} is not FIELD=VALUE")
    arguments = [f"--{name}={value}" for name, value in fixed.items()] + [f"--{pair}" for pair in pairs or []]
    try:
        return draccus.parse(known[kind], args=arguments)
    except SystemExit as error:  # what argparse makes of an unknown field
        raise PolicyError(f"{kind} does not read {' '.join(pairs or [])}; fields: see its configuration") from error
    except (DraccusException, yaml.YAMLError) as error:
        raise PolicyError(f"--set {' '.join(pairs or [])}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """In one line; draccus hides what a configuration says of its values behind a message of its own."""
    hidden = None if isinstance(error, DecodingError) else error.__cause__
    return " ".join(str(hidden or error).split())


def _bar() -> Progress:
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()]
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))


def _run(command: Callable[..., None]) -> None:
    logging.basicConfig(level=logging.WARNING)
    register_third_party_plugins()
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(command)
    try:
        app()
    except (PolicyError, OmniStreamError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def cache_main() -> None:
    _run(cache_features)


def train_main() -> None:
    _run(train)
