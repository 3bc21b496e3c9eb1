"""Records expert episodes as one LeRobotDataset: successes only, in parallel, and never half an episode.

Each success is written as a finished dataset of one episode into ``OUT.parts/`` and moved into place by one rename, so
whatever stands there is whole; the parts are joined when there are enough. Killed and started again, the recording goes
on with the seeds that are missing; started again with more episodes, it extends the set. The seeds that end up in the
set do not depend on the number of workers.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_env_omnistream.environments import EnvConfig, RecordedEnv, config_to_json
from lerobot_env_omnistream.errors import SimError
from lerobot_env_omnistream.takeover import Takeover
from lerobot_env_omnistream.trials import env_of_process

SETTINGS_FILE = "recording.json"
EPISODE, FAILED, UNFINISHED, JOINED, BEFORE = "episode-", "failed-", "unfinished-", "joined", "before"
# More failures than this, and than half of the episodes asked for, and the recording gives up.
FAILURES_ALLOWED = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a recording is."""

    recorded: int
    failed: int
    wanted: int

    def __add__(self, task: Progress) -> Progress:
        """What was before, and a task's own progress."""
        return replace(self, recorded=self.recorded + task.recorded, failed=self.failed + task.failed)


def record(
    config: EnvConfig,
    episodes: int,
    out: Path,
    *,
    first_seed: int = 0,
    workers: int = 1,
    takeover: Takeover | None = None,
    show: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Writes ``episodes`` successes of each task's expert to ``out``, from the first seeds that succeed.

    With ``takeover`` a policy begins each episode, and what the expert does from then on is written; episodes that the
    policy ends by itself are not.

    Raises:
        SimError: there is no expert or no camera, ``out`` holds something else, a recording with other settings was
            begun there or is under way, too many seeds give no success, or the policy of ``takeover`` does not load.
    """
    _check(config, episodes, workers)
    tasks = config.single_tasks()
    settings = {"env": config.settings(), "first_seed": first_seed, "episodes": episodes}
    settings |= {} if takeover is None else {"takeover": asdict(takeover)}
    if _is_complete(out, settings):
        show(Progress(recorded=episodes * len(tasks), failed=0, wanted=episodes * len(tasks)))
        return out
    if takeover is not None:
        takeover.check(tasks[0])
    if len(tasks) == 1:
        return _record_task(tasks[0], settings, out, workers, show)
    return _record_tasks(tasks, settings, out, workers, show)


def _record_task(
    config: EnvConfig, settings: dict[str, Any], out: Path, workers: int, show: Callable[[Progress], None]
) -> Path:
    settings = settings | {"env": config.settings()}
    parts = out.with_name(out.name + ".parts")
    if (parts / BEFORE).exists() and not out.exists():  # killed between the two renames of an extension
        (parts / BEFORE).rename(out)
    if _is_complete(out, settings):
        return out
    parts.mkdir(parents=True, exist_ok=True)
    with _locked(parts):
        _begin_or_resume(parts, settings)
        earlier = _summary(out) if out.exists() else {"seeds": [], "failed_seeds": []}
        _fill(config, parts, settings, earlier, workers, show)
        _join_episodes(parts, out, settings, earlier)
    shutil.rmtree(parts)
    return out


def _record_tasks(
    configs: list[EnvConfig], settings: dict[str, Any], out: Path, workers: int, show: Callable[[Progress], None]
) -> Path:
    """Each task is a recording of its own in ``OUT.tasks/``; together they become one set."""
    folder = out.with_name(out.name + ".tasks")
    episodes, failed, summaries = settings["episodes"], 0, {}
    for index, config in enumerate(configs):
        before = Progress(recorded=index * episodes, failed=failed, wanted=len(configs) * episodes)
        _record_task(config, settings, folder / config.task, workers, lambda now, before=before: show(before + now))
        summaries[config.task] = _summary(folder / config.task)
        failed += len(summaries[config.task]["failed_seeds"])
    seeds = {name: {key: summary[key] for key in ("seeds", "failed_seeds")} for name, summary in summaries.items()}
    shutil.rmtree(folder / JOINED, ignore_errors=True)
    _join(
        [folder / config.task for config in configs], folder / JOINED, folder / BEFORE, out, settings | {"tasks": seeds}
    )
    shutil.rmtree(folder)
    return out


def _check(config: EnvConfig, episodes: int, workers: int) -> None:
    _require_datasets()
    config.require_expert()
    if episodes < 1 or workers < 1:
        raise SimError(f"episodes is {episodes} and workers {workers}; both must be at least 1")


def _require_datasets() -> None:
    try:
        import lerobot.datasets.lerobot_dataset  # noqa: F401
    except Exception as error:  # a missing package raises ImportError; one of another version, anything
        raise SimError(f"LeRobot's datasets do not load ({error}): pip install 'lerobot[dataset]'") from error


def _is_complete(out: Path, settings: dict[str, Any]) -> bool:
    """Whether ``out`` is this recording with all its episodes; whatever else stands there is an error, but a recording
    of one task with fewer episodes, which can be extended."""
    if not out.exists():
        return False
    recorded = _summary(out)
    _check_same(out, recorded, settings, "first_seed")
    if recorded["episodes"] < settings["episodes"] and "tasks" not in recorded:
        return False
    _check_same(out, recorded, settings, "episodes")
    return True


def _summary(out: Path) -> dict[str, Any]:
    """What a finished recording says of itself."""
    try:
        return json.loads((out / "meta" / SETTINGS_FILE).read_text())
    except OSError:
        raise SimError(f"{out} exists and is no recording; choose another folder") from None


def _check_same(where: Path, recorded: dict[str, Any], settings: dict[str, Any], count: str) -> None:
    before, now = (
        some["env"] | {count: some[count], "takeover": some.get("takeover")} for some in (recorded, settings)
    )
    # A setting that is off, and that a recording does not know, came later.
    for name in (name for name in now if before.get(name) != now[name] and (name in before or now[name])):
        raise SimError(f"{where} was recorded with {name} {before.get(name)}, not {now[name]}; choose another folder")


@contextmanager
def _locked(parts: Path) -> Iterator[None]:
    with (parts / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SimError(f"another recording is under way in {parts}") from None
        yield


def _begin_or_resume(parts: Path, settings: dict[str, Any]) -> None:
    """Removes what a killed recording left unfinished, and holds its settings against ours."""
    for leftover in [*parts.glob(f"{UNFINISHED}*"), parts / JOINED, parts / BEFORE]:
        shutil.rmtree(leftover, ignore_errors=True)
    file = parts / SETTINGS_FILE
    if file.exists():
        _check_same(parts, json.loads(file.read_text()), settings, "first_seed")
    temporary = parts / f"{SETTINGS_FILE}.tmp"
    temporary.write_text(json.dumps(settings, indent=1))
    temporary.replace(file)


# ---- the episodes ----


def _fill(
    config: EnvConfig,
    parts: Path,
    settings: dict[str, Any],
    earlier: dict[str, Any],
    workers: int,
    show: Callable[[Progress], None],
) -> None:
    """Runs seeds in their order, as many at a time as may still be needed, until there are enough successes."""
    wanted, environment = settings["episodes"], config_to_json(config)
    takeover = Takeover(**settings["takeover"]) if "takeover" in settings else None
    # Where a policy begins, what it ends by itself is no failure of the expert's.
    allowed = max(FAILURES_ALLOWED, wanted // 2 if takeover is None else 3 * wanted)
    done = _seeds(parts, EPISODE) | set(earlier["seeds"])
    failed = _seeds(parts, FAILED) | set(earlier["failed_seeds"])
    seeds = (seed for seed in count(settings["first_seed"]) if seed not in done and seed not in failed)
    show(Progress(recorded=len(done), failed=len(failed), wanted=wanted))
    if len(done) >= wanted:
        return
    running = {}
    context, initializer = multiprocessing.get_context("forkserver"), _take_one_thread if workers > 1 else None
    with ProcessPoolExecutor(workers, mp_context=context, initializer=initializer) as pool:
        while len(done) < wanted:
            while len(running) < workers and len(done) + len(running) < wanted:
                seed = next(seeds)
                running[pool.submit(_record_seed, environment, seed, parts, takeover)] = seed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                (done if future.result() else failed).add(running.pop(future))
            show(Progress(recorded=len(done), failed=len(failed), wanted=wanted))
            if len(failed) > allowed:
                raise SimError(_hopeless(len(failed), len(done), takeover))


def _hopeless(failed: int, done: int, takeover: Takeover | None) -> str:
    if takeover is None:
        return f"the expert failed on {failed} seeds and succeeded on {done}: giving up"
    left_out = f"{failed} seeds were left out, ended by the policy itself or failed by the expert"
    return f"{left_out}, and {done} recorded: giving up"


def _take_one_thread() -> None:
    """In each of several workers: the policy of a takeover would take every core."""
    import torch

    torch.set_num_threads(1)


def _seeds(parts: Path, prefix: str) -> set[int]:
    return {int(path.name.removeprefix(prefix)) for path in parts.glob(f"{prefix}*")}


def _record_seed(environment: str, seed: int, parts: Path, takeover: Takeover | None) -> bool:
    """In a worker: one episode; a success stands in ``parts`` afterwards, a failure leaves a mark."""
    env = env_of_process(environment)
    frames = run_episode(env, seed, takeover)
    if not frames or not frames[-1]["next.success"][0]:
        (parts / f"{FAILED}{seed:08d}").touch()
        return False
    unfinished = parts / f"{UNFINISHED}{seed:08d}-{os.getpid()}"
    with _own_priority():
        write_dataset(env, frames, unfinished)
    unfinished.rename(parts / f"{EPISODE}{seed:08d}")
    return True


@contextmanager
def _own_priority() -> Iterator[None]:
    """Leaves the scheduling of this thread as it was: SVT-AV1, run by root, makes it real-time and keeps it there."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def run_episode(env: RecordedEnv, seed: int, takeover: Takeover | None = None) -> list[dict[str, Any]]:
    """The frames of one expert episode with LeRobot's keys; the observation is the one that the action answers.

    With ``takeover`` from where the expert takes over; none where the policy has ended the episode by itself.
    """
    observation, _ = env.reset(seed=seed)
    ended = False
    if takeover is not None:
        observation, ended = takeover.drive(env, observation, seed)
    expert = env.make_expert(seed)
    frames: list[dict[str, Any]] = []
    while not ended:
        action = np.clip(expert.act(), -1, 1)
        following, reward, success, truncated, _ = env.step(action)
        ended = success or truncated
        outcome = {
            "next.reward": np.array([reward], np.float32),
            "next.success": np.array([success]),
            "next.done": np.array([ended]),
        }
        frames.append(_dataset_keys(observation) | {"action": action, "task": env.task_description} | outcome)
        observation = following
    return frames


def _dataset_keys(observation: dict[str, Any]) -> dict[str, np.ndarray]:
    images = {_image_key(name): image for name, image in _images(observation["pixels"]).items()}
    geometry = {f"observation.{key}": value.ravel() for key, value in observation.items() if _is_geometry(key)}
    return {"observation.state": observation["agent_pos"].astype(np.float32)} | images | geometry


def _images(pixels: Any) -> dict[str, Any]:
    """Images, or their spaces, by camera; LeRobot's environments of one camera do not name it."""
    return dict(pixels.items()) if hasattr(pixels, "items") else {"": pixels}


def _image_key(camera: str) -> str:
    return f"observation.images.{camera}" if camera else "observation.image"


def _is_geometry(key: str) -> bool:
    return key.startswith(("intrinsics.", "world_from_camera."))


def dataset_features(env: RecordedEnv) -> dict[str, dict[str, Any]]:
    """LeRobot's description of what a recording of the environment holds. Matrices lie row by row;
    depth is not recorded."""
    space = env.observation_space
    features = {
        "observation.state": _numbers(space["agent_pos"].shape),
        "action": _numbers(env.action_space.shape),
        "next.reward": _numbers((1,)),
        "next.success": _numbers((1,), "bool"),
        "next.done": _numbers((1,), "bool"),
    }
    for camera, image in _images(space["pixels"]).items():
        names = ["height", "width", "channels"]
        features[_image_key(camera)] = {"dtype": "video", "shape": image.shape, "names": names}
    matrices = {key: _numbers((space[key].shape[0] ** 2,)) for key in space if _is_geometry(key)}
    return features | {f"observation.{key}": feature for key, feature in matrices.items()}


def _numbers(shape: tuple[int, ...], dtype: str = "float32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "names": None}


def write_dataset(env: RecordedEnv, frames: list[dict[str, Any]], root: Path) -> None:
    """A finished LeRobotDataset of one episode."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset.create(
        repo_id=f"omnistream/{env.task.lower()}",
        fps=env.config.fps,
        features=dataset_features(env),
        root=root,
        robot_type=env.config.robot.lower(),
        encoder_threads=1,
    )
    for frame in frames:
        dataset.add_frame(frame)
    dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


# ---- the set ----


def _join_episodes(parts: Path, out: Path, settings: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Behind the episodes of ``earlier``, which stand in ``out``, come the new ones in the order of their seeds."""
    missing = settings["episodes"] - len(earlier["seeds"])
    seeds = sorted(_seeds(parts, EPISODE) - set(earlier["seeds"]))[:missing]
    roots = [out] * bool(earlier["seeds"]) + [parts / f"{EPISODE}{seed:08d}" for seed in seeds]
    failed = sorted(_seeds(parts, FAILED) | set(earlier["failed_seeds"]))
    summary = settings | {"seeds": earlier["seeds"] + seeds, "failed_seeds": failed}
    _join(roots, parts / JOINED, parts / BEFORE, out, summary)


def _join(roots: list[Path], joined: Path, before: Path, out: Path, summary: dict[str, Any]) -> None:
    """Joins datasets in their order into ``joined`` and renames it to ``out``; what stood there goes to ``before``."""
    from lerobot.datasets.aggregate import aggregate_datasets

    name = f"omnistream/{summary['env']['task'].lower()}"
    aggregate_datasets([name] * len(roots), name, roots=roots, aggr_root=joined)
    (joined / "meta" / SETTINGS_FILE).write_text(json.dumps(summary, indent=1))
    if out.exists():
        out.rename(before)
    joined.rename(out)
