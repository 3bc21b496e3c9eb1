"""Features of a dataset, streamed once and kept in a memory-mapped file a camera.

A cache is a folder: ``features.json`` says what made it, ``<camera>.bin`` holds (copies, frames, N, D) numbers. It is
filled beside its place and moved there when it is whole. Copy 0 is the dataset as it is; the others are augmented.

Shape letters: B samples, N patches, D channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.utils.feature_utils import dataset_to_policy_features
from torch import Tensor

from lerobot_policy_omnistream.encoder import Encoder, Streams
from lerobot_policy_omnistream.errors import PolicyError

DESCRIPTION = "features.json"
DTYPES = {"bfloat16": (torch.bfloat16, np.uint16), "float32": (torch.float32, np.float32)}
# Frames decoded at a time.
BLOCK_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """What a cache holds.

    Attributes:
        key: what the features depend on; see ``Encoder.key``.
        dataset: ``dataset_hash`` of what was streamed.
        frames: of the dataset, by their absolute index.
        copies: the dataset itself and augmented copies.
        dtype: bfloat16 or float32.
        shapes: (patches, channels) by camera key.
    """

    key: dict[str, Any]
    dataset: str
    frames: int
    copies: int
    dtype: str
    shapes: dict[str, tuple[int, int]]


class FeatureCache:
    """Reads features by frame.

    Args:
        folder: as ``build_feature_cache`` left it.
        key: of the encoder that is to use them.
        cameras: keys that will be read.

    Raises:
        PolicyError: no cache, a cache made by another backbone or preprocessing, a camera that is not in it.
    """

    def __init__(self, folder: str | Path, key: dict[str, Any], cameras: Sequence[str]) -> None:
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        for name, value in key.items():
            if self.info.key.get(name) != value:
                raise PolicyError(
                    f"feature cache {self.folder} was made with {name} {self.info.key.get(name)}, the policy has "
                    f"{value}; make a cache for it: omnistream-cache-features"
                )
        for camera in cameras:
            if camera not in self.info.shapes:
                raise PolicyError(
                    f"feature cache {self.folder} has no {camera!r}; it has {', '.join(self.info.shapes)}"
                )
        self._maps = {camera: _map(self.folder, camera, self.info, "r") for camera in cameras}

    def check_dataset(self, meta: Any) -> None:
        """Raises PolicyError unless the cache was made of the very recordings that ``meta`` describes."""
        if self.info.frames != meta.total_frames:
            raise PolicyError(
                f"feature cache {self.folder} is of {self.info.frames} frames, the dataset has {meta.total_frames}"
            )
        if self.info.dataset != dataset_hash(meta.root):
            raise PolicyError(f"feature cache {self.folder} is of other recordings than {meta.root}; make a new one")

    def read(self, index_B: Tensor, *, augmented: bool = True) -> dict[str, Tensor]:
        """(B, N, D) float32 features of frames by camera; each frame from a random copy, the same for all cameras, or
        all from the dataset as it is."""
        index_B = index_B.reshape(-1).cpu()
        copy_B = torch.zeros_like(index_B)
        if augmented and self.info.copies > 1:
            copy_B = torch.randint(self.info.copies, index_B.shape)
        return {camera: self._values(file[copy_B.numpy(), index_B.numpy()]) for camera, file in self._maps.items()}

    def _values(self, stored: np.ndarray) -> Tensor:
        return torch.from_numpy(stored).view(DTYPES[self.info.dtype][0]).float()


def dataset_hash(root: str | Path) -> str:
    """A short name of a LeRobotDataset's recordings: of all its tables and videos, to the byte.

    A process reads files once, as long as their sizes and times stay.
    """
    root = Path(root).resolve()
    found = [path for kind in ("data", "videos") for path in sorted((root / kind).rglob("*")) if path.is_file()]
    stats = [(path, path.stat()) for path in found]
    return _hash_of(root, tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@lru_cache
def _hash_of(root: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, size, _ in files:
        digest.update(f"{file.relative_to(root).as_posix()} {size}".encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def read_info(folder: Path) -> CacheInfo:
    """Raises PolicyError where there is no whole cache."""
    try:
        return CacheInfo(**json.loads((folder / DESCRIPTION).read_text()))
    except FileNotFoundError:
        raise PolicyError(f"{folder} is no feature cache; make one: omnistream-cache-features DATASET") from None
    except (ValueError, TypeError) as error:
        raise PolicyError(f"{folder / DESCRIPTION} cannot be read: {error}") from error


def write_whole(path: Path, text: str) -> None:
    """A reader finds the old file or the new one, never half of it, whenever this is killed."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def build_feature_cache(
    dataset: Any,
    encoder: Encoder,
    out: Path,
    *,
    cameras: Sequence[str],
    copies: int = 1,
    dtype: str = "bfloat16",
    show: Callable[[int], None] = lambda episodes_done: None,
) -> CacheInfo:
    """Stream every episode of a LeRobotDataset once and write its features to ``out``; continues where it was killed.

    Args:
        dataset: frames by ``delta_timestamps`` of whole blocks; see ``open_blocks``.
        copies: 1, or more for as many augmented copies.

    Raises:
        PolicyError: ``out`` holds another cache.
    """
    features = dataset_to_policy_features(dataset.meta.features)
    info = CacheInfo(
        key=encoder.key(),
        dataset=dataset_hash(dataset.meta.root),
        frames=dataset.meta.total_frames,
        copies=copies,
        dtype=dtype,
        shapes={camera: _shape(encoder, features[camera].shape) for camera in cameras},
    )
    if out.exists():
        if _plain(read_info(out)) != _plain(info):
            raise PolicyError(f"{out} is another feature cache; choose another folder")
        return info
    partial = out.with_name(out.name + ".partial")
    done = _begin_or_resume(partial, info)
    maps = {camera: _map(partial, camera, info, "r+") for camera in cameras}
    for episode in range(dataset.meta.total_episodes):
        if episode not in done:
            _stream_episode(dataset, episode, encoder, maps, info)
            for file in maps.values():
                file.flush()
            done.add(episode)
            write_whole(partial / "done.json", json.dumps(sorted(done)))
        show(episode + 1)
    for note in ("begun.json", "done.json"):
        (partial / note).unlink(missing_ok=True)
    (partial / DESCRIPTION).write_text(json.dumps(asdict(info), indent=1))
    partial.rename(out)
    return info


def open_blocks(repo_id: str, root: str | Path, cameras: Sequence[str]) -> Any:
    """A LeRobotDataset whose items bring the next BLOCK_FRAMES images of each camera."""
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    fps = LeRobotDatasetMetadata(repo_id, root=root).fps
    deltas_s = [frame / fps for frame in range(BLOCK_FRAMES)]
    return LeRobotDataset(repo_id, root=root, delta_timestamps=dict.fromkeys(cameras, deltas_s))


def episode_blocks(dataset: Any, episode: int, cameras: Sequence[str]) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(absolute index of the first frame, images (frames, 3, H, W) in 0..1 by camera) of an episode, block by block."""
    bounds = dataset.meta.episodes[episode]
    start, end = bounds["dataset_from_index"], bounds["dataset_to_index"]
    for first in range(start, end, BLOCK_FRAMES):
        item, frames = dataset[first], min(BLOCK_FRAMES, end - first)
        yield first, {camera: item[camera][:frames] for camera in cameras}


def _stream_episode(dataset: Any, episode: int, encoder: Encoder, maps: dict[str, np.memmap], info: CacheInfo) -> None:
    """One row of the stream for each copy."""
    device = next(encoder.parameters()).device
    streams = Streams(encoder, list(maps), rows=info.copies)
    changes = [Augmentation.draw(copy, episode) for copy in range(info.copies)]
    for first, images in episode_blocks(dataset, episode, list(maps)):
        for offset in range(len(next(iter(images.values())))):
            seen = {
                camera: torch.stack([change(block[offset]) for change in changes]).to(device)
                for camera, block in images.items()
            }
            for camera, features_CND in streams.push(seen).items():
                maps[camera][:, first + offset] = _stored(features_CND, info.dtype)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """One change of light and camera, the same for all frames of an episode.

    Attributes:
        brightness, contrast: factors.
        colour_3: factor of red, green, blue.
        shift_yx: displacement as a fraction of the image; the border is repeated.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    colour_3: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift_yx: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def draw(cls, copy: int, episode: int) -> Augmentation:
        """Copy 0 is unchanged; the others are drawn by their number and the episode's."""
        if copy == 0:
            return cls()
        rng = np.random.default_rng([copy, episode])
        return cls(
            brightness=rng.uniform(0.7, 1.3),
            contrast=rng.uniform(0.7, 1.3),
            colour_3=tuple(rng.uniform(0.9, 1.1, 3)),
            shift_yx=tuple(rng.uniform(-0.03, 0.03, 2)),
        )

    def __call__(self, image_3HW: Tensor) -> Tensor:
        """(3, H, W) in 0..1 to the same."""
        if self == Augmentation():
            return image_3HW
        mean = image_3HW.mean()
        image_3HW = ((image_3HW - mean) * self.contrast + mean) * self.brightness
        image_3HW = (image_3HW * torch.tensor(self.colour_3, dtype=image_3HW.dtype)[:, None, None]).clamp(0, 1)
        return _shifted(image_3HW, self.shift_yx)


def _shifted(image_3HW: Tensor, shift_yx: tuple[float, float]) -> Tensor:
    height, width = image_3HW.shape[-2:]
    rows = (torch.arange(height) - round(shift_yx[0] * height)).clamp(0, height - 1)
    columns = (torch.arange(width) - round(shift_yx[1] * width)).clamp(0, width - 1)
    return image_3HW[:, rows][:, :, columns]


def _begin_or_resume(partial: Path, info: CacheInfo) -> set[int]:
    """The episodes that an earlier run, killed, has written; another run's leftovers are replaced."""
    begun = partial / "begun.json"
    if begun.exists() and json.loads(begun.read_text()) == _plain(info):
        done = partial / "done.json"
        return set(json.loads(done.read_text())) if done.exists() else set()
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "done.json").unlink(missing_ok=True)
    for camera in info.shapes:
        _map(partial, camera, info, "w+")
    write_whole(begun, json.dumps(_plain(info)))
    return set()


def _plain(info: CacheInfo) -> Any:
    return json.loads(json.dumps(asdict(info)))


def _shape(encoder: Encoder, image_shape: Sequence[int]) -> tuple[int, int]:
    rows, columns = encoder.grid_hw(tuple(image_shape[-2:]))
    return rows * columns, encoder.width


def _map(folder: Path, camera: str, info: CacheInfo, mode: str) -> np.memmap:
    shape = (info.copies, info.frames, *info.shapes[camera])
    return np.memmap(folder / f"{camera}.bin", dtype=DTYPES[info.dtype][1], mode=mode, shape=shape)


def _stored(features: Tensor, dtype: str) -> np.ndarray:
    kind, numpy_kind = DTYPES[dtype]
    return features.to(kind).cpu().contiguous().view(torch.uint8).numpy().view(numpy_kind).reshape(features.shape)
