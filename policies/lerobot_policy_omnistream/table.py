"""A LeRobotDataset whole in memory, for training loops that would otherwise wait for their data.

``FrameTable.batch`` gives what LeRobot's own dataset and collation give for the same frames; images are decoded once,
or not at all where their features are cached. Shape letters: B samples, T frames or steps, F frames of the dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_PREFIX
from torch import Tensor

from lerobot_policy_omnistream.errors import PolicyError
from lerobot_policy_omnistream.feature_cache import episode_blocks, open_blocks


class FrameTable:
    """Random batches of a dataset for a policy.

    Attributes:
        frames: (F,) absolute indices of the frames to train on; at least one.

    Args:
        root: folder of the dataset.
        config: of the policy: says which cameras it sees, all where it has no inputs yet, and which frames around its
            own a sample brings.
        episodes: to train on; all by default.
        images: whether to decode them; a policy with a feature cache needs none.

    Raises:
        PolicyError: episodes that are not in the dataset, or no frame to train on.
    """

    def __init__(
        self,
        root: str | Path,
        config: PreTrainedConfig,
        *,
        episodes: Sequence[int] | None = None,
        images: bool = True,
        repo_id: str = "local/dataset",
    ) -> None:
        dataset = LeRobotDataset(repo_id, root=root)
        self.meta = dataset.meta
        self._action_deltas = config.action_delta_indices
        self._observation_deltas = config.observation_delta_indices
        self._columns = _columns(dataset)
        self._start_F, self._end_F = _bounds(dataset)
        self._texts = list(dataset.meta.tasks.index)
        chosen = range(self.meta.total_episodes) if episodes is None else episodes
        self.frames = _frames_of(self.meta, chosen, getattr(config, "drop_n_last_frames", 0))
        seen = config.input_features or self.meta.camera_keys
        cameras = [key for key in self.meta.camera_keys if key in seen]
        self._images = _decode(repo_id, root, cameras, chosen) if images else {}

    def batch(self, index_B: Tensor) -> dict[str, Any]:
        """The samples of these frames, by their absolute index."""
        batch: dict[str, Any] = {}
        for key, values in [*self._columns.items(), *self._images.items()]:
            deltas = self._deltas(key)
            if deltas is None:
                batch[key] = _as_float(values[index_B])
                continue
            wanted_BT = index_B[:, None] + torch.tensor(deltas)
            first_B1, last_B1 = self._start_F[index_B, None], self._end_F[index_B, None] - 1
            batch[key] = _as_float(values[wanted_BT.clamp(first_B1, last_B1)])
            batch[f"{key}_is_pad"] = (wanted_BT < first_B1) | (wanted_BT > last_B1)
        batch["task"] = [self._texts[task] for task in batch["task_index"].tolist()]
        return batch

    def _deltas(self, key: str) -> list[int] | None:
        if key == ACTION:
            return self._action_deltas
        return self._observation_deltas if key.startswith(OBS_PREFIX) else None


def _columns(dataset: LeRobotDataset) -> dict[str, Tensor]:
    """Everything but images, (F, ...) each."""
    keys = [key for key in dataset.meta.features if key not in dataset.meta.camera_keys]
    values = dataset.hf_dataset.select_columns(keys).with_format("torch")[:]
    return {key: _stacked(values[key]) for key in keys}


def _stacked(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.stack(list(values))


def _bounds(dataset: LeRobotDataset) -> tuple[Tensor, Tensor]:
    """First and last-but-one frame of the episode that each frame belongs to, (F,) each."""
    episodes = dataset.meta.episodes
    starts, ends = (torch.tensor(episodes[f"dataset_{side}_index"]) for side in ("from", "to"))
    lengths = ends - starts
    return starts.repeat_interleave(lengths), ends.repeat_interleave(lengths)


def _decode(repo_id: str, root: str | Path, cameras: Sequence[str], episodes: Iterable[int]) -> dict[str, Tensor]:
    """Every image of these episodes, (F, 3, H, W) uint8 by camera; nothing stands at the frames of others."""
    blocks = open_blocks(repo_id, root, cameras)
    images: dict[str, Tensor] = {}
    for episode in sorted(set(episodes)):
        for first, block in episode_blocks(blocks, episode, cameras):
            for camera, frames in block.items():
                if camera not in images:
                    images[camera] = torch.empty(blocks.meta.total_frames, *frames.shape[1:], dtype=torch.uint8)
                images[camera][first : first + len(frames)] = (frames * 255).round().byte()
    return images


def _frames_of(meta: Any, episodes: Sequence[int], drop_last: int) -> Tensor:
    """Absolute indices of the frames to train on; some policies leave out the last ones of every episode."""
    unknown = [episode for episode in episodes if not 0 <= episode < meta.total_episodes]
    if unknown:
        raise PolicyError(f"episodes {unknown} are not in the dataset, which has 0 ... {meta.total_episodes - 1}")
    bounds = [(meta.episodes[e]["dataset_from_index"], meta.episodes[e]["dataset_to_index"]) for e in episodes]
    frames = torch.cat([torch.arange(0), *(torch.arange(start, max(start, end - drop_last)) for start, end in bounds)])
    if not len(frames):
        longest = max((end - start for start, end in bounds), default=0)
        raise PolicyError(
            f"no frame to train on: {len(bounds)} episodes of at most {longest} frames are chosen, and the policy "
            f"leaves out the last {drop_last} of each (drop_n_last_frames)"
        )
    return frames


def _as_float(values: Tensor) -> Tensor:
    return values.float() / 255 if values.dtype == torch.uint8 else values
