"""A real robot's episodes: how far off are the actions of a policy on an episode it never saw?

    python -m benchmarks.g1_open_loop --root ../shared/realdata/g1_bottle_dev --minutes 10

Trains on all episodes but the last. On that one, frame by frame, every policy predicts the next actions from what the
robot saw and felt until then; nothing of what it predicts is carried out. Beside them: repeating the last action.
Errors are means over frames and joints, in the data's own unit (rad for the arms) and in standard deviations of the
training actions.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.import_utils import register_third_party_plugins
from PIL import Image
from torch import Tensor

from benchmarks.cached_features import cached_features
from lerobot_policy_omnistream.encoder import build_encoder
from lerobot_policy_omnistream.training import TrainSettings, train_policy
from training.policies import ACT

CAMERA = "observation.images.cam_high"
SIZE_WH = (160, 120)
CHUNK = 16
COMMON = {"device": "cpu", "push_to_hub": False, "chunk_size": CHUNK, "n_action_steps": 8}
# Teleoperation: an action is where the joints are to be, and next to where they are.
OURS: dict[str, Any] = {"relative_actions": True}
CANDIDATES: dict[str, tuple[str, dict[str, Any], int]] = {
    "ours": ("omnistream", OURS, 128),
    "ours-absolute": ("omnistream", {}, 128),
    "act": ("act", ACT.settings, 16),
}


def as_v3(source: Path, out: Path) -> LeRobotDataset:
    """The recording, which is in LeRobot's layout 2.1, as a dataset of the present layout with small images."""
    if not out.exists():
        info = json.loads((source / "meta/info.json").read_text())
        episodes = [json.loads(line) for line in (source / "meta/episodes.jsonl").read_text().splitlines()]
        features = {
            CAMERA: {"dtype": "image", "shape": (*SIZE_WH[::-1], 3), "names": ["height", "width", "channels"]},
            **{key: info["features"][key] for key in ("observation.state", "action")},
        }
        partial = out.with_name(out.name + f".{time.time_ns()}")
        dataset = LeRobotDataset.create("local/g1", fps=info["fps"], features=features, root=partial, use_videos=False)
        for episode in episodes:
            for frame in episode_frames(source, episode["episode_index"]):
                dataset.add_frame(frame | {"task": episode["tasks"][0]})
            dataset.save_episode()
        dataset.finalize()
        partial.rename(out)
    return LeRobotDataset("local/g1", root=out)


def episode_frames(source: Path, episode: int) -> Any:
    table = pd.read_parquet(source / f"data/chunk-000/episode_{episode:06d}.parquet")
    with av.open(str(source / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4")) as video:
        for (_, row), picture in zip(table.iterrows(), video.decode(video=0), strict=True):
            yield {
                CAMERA: np.asarray(picture.to_image().resize(SIZE_WH, Image.Resampling.BILINEAR)),
                "observation.state": np.asarray(row["observation.state"], np.float32),
                "action": np.asarray(row["action"], np.float32),
            }


def train_candidate(name: str, dataset: LeRobotDataset, minutes: float, runs: Path) -> tuple[Any, Any, Any, dict]:
    """Trains on all episodes but the last; policies without a feature cache get its processor time on top."""
    kind, settings, batch_size = CANDIDATES[name]
    config = PreTrainedConfig.get_choice_class(kind)(**(settings | COMMON))
    ours = PreTrainedConfig.get_choice_class("omnistream")(**COMMON, **(settings if kind == "omnistream" else {}))
    cache, caching_minutes = cached_features(dataset.root, build_encoder(ours), [CAMERA], runs)
    if kind == "omnistream":
        config.feature_cache = str(cache)
    else:
        minutes += caching_minutes
    episodes = tuple(range(dataset.num_episodes - 1))
    run = TrainSettings(minutes=minutes, batch_size=batch_size, episodes=episodes)
    policy, before, after, report = train_policy(config, dataset.root, run, runs / name)
    return policy, before, after, {"caching_s": 60 * caching_minutes, **vars(report)}


def predicted_chunks(policy: Any, before: Any, after: Any, frames: list[dict]) -> Tensor:
    """(F, T, A) the chunk that the policy predicts at every frame, in the data's unit."""
    policy.reset()
    chunks = []
    for frame in frames:
        seen = before({CAMERA: frame[CAMERA], "observation.state": frame["observation.state"], "task": frame["task"]})
        chunks.append(after(policy.predict_action_chunk(seen))[0])
    return torch.stack(chunks)


def true_chunks(frames: list[dict]) -> tuple[Tensor, Tensor]:
    """(F, T, A) what was really done from every frame on, and (F, T) whether the episode still ran."""
    actions_FA = torch.stack([frame["action"] for frame in frames])
    wanted_FT = torch.arange(len(frames))[:, None] + torch.arange(CHUNK)
    return actions_FA[wanted_FT.clamp(max=len(frames) - 1)], wanted_FT < len(frames)


def errors(chunks_FTA: Tensor, frames: list[dict], std_A: Tensor) -> dict[str, float]:
    """Mean absolute errors of the next action and of the whole chunk, from the second frame on."""
    true_FTA, valid_FT = true_chunks(frames)
    error_FTA, valid_FT = (chunks_FTA - true_FTA).abs()[1:], valid_FT[1:]
    scaled_FTA = error_FTA / std_A
    return {
        "next_action": error_FTA[:, 0].mean().item(),
        "next_action_std": scaled_FTA[:, 0].mean().item(),
        "chunk": error_FTA[valid_FT].mean().item(),
        "chunk_std": scaled_FTA[valid_FT].mean().item(),
    }


def repeated(frames: list[dict]) -> Tensor:
    """(F, T, A) the action before each frame, over and over."""
    actions_FA = torch.stack([frame["action"] for frame in frames])
    return torch.cat([actions_FA[:1], actions_FA[:-1]])[:, None].expand(-1, CHUNK, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("../shared/realdata/g1_bottle_dev"))
    parser.add_argument("--runs", type=Path, default=Path("runs/g1"))
    parser.add_argument("--minutes", type=float, default=10, help="training, processor time")
    parser.add_argument("--policies", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/g1_open_loop.json"))
    arguments = parser.parse_args()
    register_third_party_plugins()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    dataset = as_v3(arguments.root, arguments.runs / "dataset")
    bounds = dataset.meta.episodes[dataset.num_episodes - 1]
    frames = [dataset[index] for index in range(bounds["dataset_from_index"], bounds["dataset_to_index"])]
    training = dataset.hf_dataset.select_columns(["action"]).with_format("torch")[: bounds["dataset_from_index"]]
    # A joint that never moved in training has no deviation to measure by; it counts in the data's unit.
    std_A = torch.stack(list(training["action"])).std(0)
    std_A = torch.where(std_A > 1e-4, std_A, torch.ones_like(std_A))
    table = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    table |= {"held_out": {"episode": dataset.num_episodes - 1, "frames": len(frames)}, "chunk_steps": CHUNK}
    table["repeat the last action"] = errors(repeated(frames), frames, std_A)
    for name in arguments.policies:
        policy, before, after, report = train_candidate(name, dataset, arguments.minutes, arguments.runs)
        table[name] = errors(predicted_chunks(policy, before, after, frames), frames, std_A) | {"training": report}
        print(name, json.dumps(table[name]), flush=True)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
