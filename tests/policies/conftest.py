"""Small synthetic datasets and policies: a few short episodes, two cameras of different sizes, noise for images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot")
pytest.importorskip("lerobot_policy_omnistream")
try:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
except Exception as error:  # a missing package raises ImportError; one of another version, anything
    pytest.skip(f"LeRobot's datasets do not load: {error}", allow_module_level=True)

from lerobot_policy_omnistream import OmnistreamConfig
from lerobot_policy_omnistream.encoder import build_encoder
from lerobot_policy_omnistream.feature_cache import build_feature_cache, open_blocks

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
SIZES_HW = {FRONT: (48, 64), WRIST: (64, 64)}
LENGTHS = (7, 5, 9)
STATE_SIZE, ACTION_SIZE, FPS = 3, 2, 10
# As small as a policy gets.
SMALL = {
    "device": "cpu",
    "push_to_hub": False,
    "image_area_px": 48 * 48,
    "stream_frames": 4,
    "chunk_size": 6,
    "n_action_steps": 3,
    "tokens_per_camera": 2,
    "dim_model": 16,
    "n_heads": 2,
    "dim_feedforward": 32,
    "n_encoder_layers": 1,
    "n_decoder_layers": 1,
    "dropout": 0.0,
    "flow_steps": 3,
}


def small_config(**settings) -> OmnistreamConfig:
    return OmnistreamConfig(**(SMALL | settings))


def write_dataset(root, *, action_size: int = ACTION_SIZE, lengths=LENGTHS, seed: int = 0) -> LeRobotDataset:
    """Episodes whose actions follow from what is seen and felt, with a camera matrix as a simulator would add it."""
    rng = np.random.default_rng(seed)
    images = {
        key: {"dtype": "image", "shape": (*hw, 3), "names": ["height", "width", "channels"]}
        for key, hw in SIZES_HW.items()
    }
    numbers = {"observation.state": STATE_SIZE, "observation.intrinsics.front": 9, "action": action_size}
    features = images | {key: {"dtype": "float32", "shape": (n,), "names": None} for key, n in numbers.items()}
    dataset = LeRobotDataset.create("test/synthetic", fps=FPS, features=features, root=root, use_videos=False)
    for episode, length in enumerate(lengths):
        place = rng.normal(size=STATE_SIZE)
        for _ in range(length):
            state = (place + 0.1 * rng.normal(size=STATE_SIZE)).astype(np.float32)
            frame = {key: rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for key, hw in SIZES_HW.items()}
            action = np.tanh(np.resize(state, action_size)) + frame[FRONT].mean() / 255
            frame |= {"observation.state": state, "observation.intrinsics.front": np.full(9, 100, np.float32)}
            dataset.add_frame(frame | {"action": action.astype(np.float32), "task": f"task {episode % 2}"})
        dataset.save_episode()
    dataset.finalize()
    return LeRobotDataset("test/synthetic", root=root)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> LeRobotDataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "synthetic")


@pytest.fixture(scope="session")
def float_cache(dataset, tmp_path_factory):
    """A feature cache of the dataset in float32, for the small configuration."""
    return write_cache(dataset, tmp_path_factory.mktemp("cache") / "float32", small_config(), dtype="float32")


def write_cache(dataset, out, config, **settings):
    blocks = open_blocks("test/synthetic", dataset.root, list(SIZES_HW))
    build_feature_cache(blocks, build_encoder(config), out, cameras=list(SIZES_HW), **settings)
    return out


def make(config, dataset):
    """A policy and its processors, made as LeRobot makes them."""
    from lerobot.policies import make_policy, make_pre_post_processors

    torch.manual_seed(0)
    policy = make_policy(config, ds_meta=dataset.meta)
    return policy, *make_pre_post_processors(config, dataset_stats=dataset.meta.stats)


def training_batch(config, dataset, indices=(0, 3, 6, 7, 11, 13, 20), cameras=True):
    """A batch as lerobot-train would load it."""
    from lerobot.datasets.factory import resolve_delta_timestamps

    deltas = resolve_delta_timestamps(config, dataset.meta)
    loaded = LeRobotDataset("test/synthetic", root=dataset.root, delta_timestamps=deltas)
    return torch.utils.data.default_collate([loaded[index] for index in indices])


def observation(rows: int, seed: int) -> dict:
    """What an environment of so many rows shows, in LeRobot's keys."""
    generator = torch.Generator().manual_seed(seed)
    images = {key: torch.rand(rows, 3, *hw, generator=generator) for key, hw in SIZES_HW.items()}
    state = torch.randn(rows, STATE_SIZE, generator=generator)
    return images | {"observation.state": state, "task": ["task 0"] * rows}
