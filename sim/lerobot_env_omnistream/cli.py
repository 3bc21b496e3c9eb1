"""The commands ``omnistream-experts`` and ``omnistream-record``.

Bad input gets one clear line and exit code 2.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from lerobot_env_omnistream.config import RobosuiteEnvConfig
from lerobot_env_omnistream.errors import SimError

ENVIRONMENTS = {"robosuite": RobosuiteEnvConfig}

Task = Annotated[str, typer.Option(help="Lift, Stack, PickPlaceCan, NutAssemblySquare or Door.")]
FirstSeed = Annotated[int, typer.Option(help="Seed of the first episode; the others follow.", min=0)]
Workers = Annotated[int, typer.Option(help="Processes that run episodes.", min=1)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the environment, e.g. camera_jitter_m=0.02."),
]


def experts(
    task: Task = "Lift",
    episodes: Annotated[int, typer.Option(help="Episodes to run.", min=1)] = 50,
    first_seed: FirstSeed = 10_000,
    workers: Workers = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    setting: Settings = None,
) -> None:
    """Measure how often the expert of TASK succeeds, by physics alone, without rendering."""
    from lerobot_env_omnistream.trials import timed_trials

    config = RobosuiteEnvConfig(**{"task": task, "cameras": [], **_settings(setting)})
    with _bar() as bar:
        row = bar.add_task(task, total=episodes)
        seeds = range(first_seed, first_seed + episodes)
        summary = timed_trials(config, seeds, workers, lambda trial: bar.advance(row))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(summary, indent=1))
    print(f"{task}: {summary['successes']} of {episodes} episodes; failed seeds: {summary['failed_seeds'] or 'none'}")
    print(f"steps of successes: {summary['steps_of_successes']}; {summary['steps_per_second']:.0f} steps/s")


def record(
    out: Annotated[Path, typer.Option(help="Folder of the dataset; must not exist, or be this recording begun.")],
    env: Annotated[str, typer.Option(help="Kind of environment.")] = "robosuite",
    task: Task = "Lift",
    episodes: Annotated[int, typer.Option(help="Successful episodes to record.", min=1)] = 200,
    first_seed: FirstSeed = 0,
    workers: Workers = 1,
    setting: Settings = None,
) -> None:
    """Record successful expert episodes as a LeRobotDataset. Killed and started again, it continues."""
    from lerobot_env_omnistream.recording import Progress
    from lerobot_env_omnistream.recording import record as record_episodes

    if env not in ENVIRONMENTS:
        raise SimError(f"unknown environment {env!r}; known: {', '.join(ENVIRONMENTS)}")
    config = ENVIRONMENTS[env](**{"task": task, **_settings(setting)})
    with _bar() as bar:
        row = bar.add_task(task, total=episodes)

        def show(progress: Progress) -> None:
            bar.update(row, completed=progress.recorded, description=f"{task} ({progress.failed} failed)")

        record_episodes(config, episodes, out, first_seed=first_seed, workers=workers, show=show)
    print(f"{episodes} episodes in {out}")


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    """``["depth=true", "task=Lift"]`` as fields; values are JSON, or else plain text."""
    settings = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or name not in RobosuiteEnvConfig.__dataclass_fields__:
            known = [field for field in RobosuiteEnvConfig.__dataclass_fields__ if not field.startswith("features")]
            raise SimError(f"--set {pair!r} is not FIELD=VALUE; fields: {', '.join(known)}")
        try:
            settings[name] = json.loads(text)
        except json.JSONDecodeError:
            settings[name] = text
    return settings


def _bar() -> ProgressBar:
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    return ProgressBar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))


def _run(command: Callable[..., None]) -> None:
    logging.basicConfig(level=logging.WARNING)
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(command)
    try:
        app()
    except SimError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def experts_main() -> None:
    _run(experts)


def record_main() -> None:
    _run(record)
