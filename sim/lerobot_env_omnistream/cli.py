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

from lerobot_env_omnistream.environments import EnvConfig, config_class
from lerobot_env_omnistream.errors import SimError

Environment = Annotated[str, typer.Option("--env", help="robosuite or metaworld.")]
Task = Annotated[
    str,
    typer.Option(help="robosuite: Lift, Stack, PickPlaceCan, NutAssemblySquare, Door. metaworld: reach-v3, MT10, ..."),
]
FirstSeed = Annotated[int, typer.Option(help="Seed of the first episode; the others follow.", min=0)]
Workers = Annotated[int, typer.Option(help="Processes that run episodes.", min=1)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any field of the environment: depth=true, or a list of names: 'cameras=[\"agentview\"]'.",
    ),
]


def experts(
    env: Environment = "robosuite",
    task: Task = "Lift",
    episodes: Annotated[int, typer.Option(help="Episodes to run, of each task.", min=1)] = 50,
    first_seed: FirstSeed = 10_000,
    workers: Workers = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    setting: Settings = None,
) -> None:
    """Measure how often the expert of each TASK succeeds, by physics alone, without rendering."""
    from lerobot_env_omnistream.trials import timed_trials

    configs = _config(env, task, setting).without_images().single_tasks()
    seeds = range(first_seed, first_seed + episodes)
    summaries = []
    for config in configs:
        with _bar() as bar:
            row = bar.add_task(config.task, total=episodes)
            summaries.append(timed_trials(config, seeds, workers, lambda trial, bar=bar, row=row: bar.advance(row)))
        _report(summaries[-1])
    if len(summaries) > 1:
        successes = sum(summary["successes"] for summary in summaries)
        print(f"{task}: {successes} of {episodes * len(summaries)} episodes of {len(summaries)} tasks")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(summaries[0] if len(summaries) == 1 else summaries, indent=1))


def _report(summary: dict[str, Any]) -> None:
    rate = f"{summary['successes']} of {summary['episodes']} episodes"
    print(f"{summary['task']}: {rate}; failed seeds: {summary['failed_seeds'] or 'none'}")
    print(f"steps of successes: {summary['steps_of_successes']}; {summary['steps_per_second']:.0f} steps/s")


def record(
    out: Annotated[Path, typer.Option(help="Folder of the dataset; must not exist, or be this recording begun.")],
    env: Environment = "robosuite",
    task: Task = "Lift",
    episodes: Annotated[int, typer.Option(help="Successful episodes to record, of each task.", min=1)] = 200,
    first_seed: FirstSeed = 0,
    workers: Workers = 1,
    takeover_from: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="A trained policy begins each episode; record what puts it right."),
    ] = None,
    takeover_steps: Annotated[int, typer.Option(help="The policy acts for up to so many steps.", min=1)] = 200,
    setting: Settings = None,
) -> None:
    """Record successful expert episodes as a LeRobotDataset. Killed and started again, it continues."""
    from lerobot_env_omnistream.recording import Progress
    from lerobot_env_omnistream.recording import record as record_episodes
    from lerobot_env_omnistream.takeover import Takeover

    config = _config(env, task, setting)
    takeover = Takeover(policy=takeover_from, steps=takeover_steps) if takeover_from else None
    with _bar() as bar:
        row = bar.add_task(task, total=episodes * len(config.single_tasks()))

        def show(progress: Progress) -> None:
            bar.update(row, completed=progress.recorded, description=f"{task} ({progress.failed} not recorded)")

        record_episodes(config, episodes, out, first_seed=first_seed, workers=workers, takeover=takeover, show=show)
    print(f"{episodes * len(config.single_tasks())} episodes in {out}")


def _config(env: str, task: str, setting: list[str] | None) -> EnvConfig:
    chosen = config_class(env)
    return chosen(**{"task": task, **_settings(chosen, setting)})


def _settings(chosen: type[EnvConfig], pairs: list[str] | None) -> dict[str, Any]:
    """``["depth=true", "task=Lift"]`` as fields; values are JSON, or else plain text."""
    settings = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or name not in chosen.__dataclass_fields__:
            known = [field for field in chosen.__dataclass_fields__ if not field.startswith("features")]
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
