"""Features once: what the cache holds is what the robot sees, and a foreign cache is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lerobot_policy_omnistream import PolicyError, feature_cache
from lerobot_policy_omnistream.configuration_omnistream import HEADS
from lerobot_policy_omnistream.encoder import Streams, build_encoder
from lerobot_policy_omnistream.feature_cache import (
    Augmentation,
    FeatureCache,
    build_feature_cache,
    dataset_hash,
    open_blocks,
)
from lerobot_policy_omnistream.modeling_omnistream import OmnistreamPolicy

from .conftest import (
    FRONT,
    LENGTHS,
    SIZES_HW,
    make,
    observation,
    small_config,
    training_batch,
    write_cache,
    write_dataset,
)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_cached_and_computed_features_give_the_same_loss(dataset, tmp_path, head, dtype, tolerance):
    out = write_cache(dataset, tmp_path / "cache", small_config(), dtype=dtype)
    losses = []
    for settings in ({}, {"feature_cache": str(out)}):
        config = small_config(head=head, **settings)
        policy, before, _ = make(config, dataset)
        batch = before(training_batch(config, dataset))
        torch.manual_seed(1)
        losses.append(policy(batch)[0].item())
    computed, cached = losses
    assert cached == pytest.approx(computed, rel=tolerance) and computed > 0.01


def test_the_cache_holds_what_the_robot_sees(dataset, tmp_path):
    """Whole episodes with a window shorter than they are, frame by frame in their order."""
    config = small_config(stream_frames=None, window=3)
    out = write_cache(dataset, tmp_path / "cache", config, dtype="float32")
    encoder = build_encoder(config)
    cache = FeatureCache(out, encoder.key(), list(SIZES_HW))
    index = 0
    for length in LENGTHS:
        streams = Streams(encoder, list(SIZES_HW), rows=1)
        for _ in range(length):
            frame = dataset[index]
            for camera, seen_1ND in streams.push({key: frame[key][None] for key in SIZES_HW}).items():
                cached_1ND = cache.read(torch.tensor([index]))[camera]
                torch.testing.assert_close(cached_1ND, seen_1ND, atol=1e-5, rtol=1e-5)
            index += 1


def test_a_cache_of_another_backbone_is_refused(dataset, float_cache):
    for message, settings in {
        "was made with backbone .*; make a cache for it": {"backbone": "random:tiny"},
        r"was made with preprocess .*2304.*, the policy has .*4096": {"image_area_px": 64 * 64},
        "was made with stream_frames 4, the policy has 3": {"stream_frames": 3},
        r"was made with levels \[\], the policy has \[1\]": {"levels": [1]},
    }.items():
        with pytest.raises(PolicyError, match=message):
            make(small_config(feature_cache=str(float_cache), **settings), dataset)


def test_a_cache_of_another_dataset_or_none_is_refused(dataset, float_cache, tmp_path):
    other = write_dataset(tmp_path / "other", lengths=(4,))
    with pytest.raises(PolicyError, match="is of 21 frames, the dataset has 4"):
        make(small_config(feature_cache=str(float_cache)), other)
    again = write_dataset(tmp_path / "again", lengths=LENGTHS, seed=1)
    with pytest.raises(PolicyError, match=r"is of other recordings than .*again; make a new one"):
        make(small_config(feature_cache=str(float_cache)), again)
    with pytest.raises(PolicyError, match="is no feature cache; make one: omnistream-cache-features"):
        make(small_config(feature_cache=str(tmp_path / "nothing")), dataset)
    with pytest.raises(PolicyError, match="is another feature cache; choose another folder"):
        write_cache(dataset, float_cache, small_config(stream_frames=2))


def test_recordings_are_read_once_as_long_as_they_stay(tmp_path, monkeypatch):
    files = {"data/0.parquet": "table", "videos/b/1.mp4": "later", "videos/a/0.mp4": "first", "meta/info.json": "{}"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    read, whole = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: read.append(path.name) or whole(path, mode))
    first = dataset_hash(tmp_path)
    assert first == "bc4eb9306533e73c", "caches that were made before would no longer be found"
    assert read == ["0.parquet", "0.mp4", "1.mp4"]
    monkeypatch.chdir(tmp_path.parent)
    assert dataset_hash(str(tmp_path)) == dataset_hash(tmp_path.name) == first and len(read) == 3
    before_ns = (tmp_path / "videos/a/0.mp4").stat().st_mtime_ns
    (tmp_path / "videos/a/0.mp4").write_bytes(b"First")
    os.utime(tmp_path / "videos/a/0.mp4", ns=(before_ns + 1, before_ns + 1))
    assert dataset_hash(tmp_path) != first, "as many bytes, written later"


def test_deployed_it_needs_no_cache(dataset, float_cache, tmp_path):
    cache = shutil.copytree(float_cache, tmp_path / "cache")
    policy, before, _ = make(small_config(feature_cache=str(cache)), dataset)
    policy.save_pretrained(tmp_path / "policy")
    shutil.rmtree(cache)
    loaded = OmnistreamPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.config.feature_cache == str(cache)
    seen = before(observation(1, 0))
    assert torch.equal(loaded.select_action(seen), policy.select_action(seen))


def test_a_killed_run_goes_on(dataset, tmp_path, monkeypatch):
    encoder, blocks = build_encoder(small_config()), open_blocks("test/synthetic", dataset.root, [FRONT])
    whole = feature_cache._stream_episode
    streamed = []

    def dies_in_the_second(data, episode, *arguments):
        if len(streamed) == 1:
            raise KeyboardInterrupt
        streamed.append(episode)
        whole(data, episode, *arguments)

    monkeypatch.setattr(feature_cache, "_stream_episode", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        build_feature_cache(blocks, encoder, tmp_path / "out", cameras=[FRONT])
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(feature_cache, "_stream_episode", lambda *a: (streamed.append(a[1]), whole(*a)))
    build_feature_cache(blocks, encoder, tmp_path / "out", cameras=[FRONT])
    assert streamed == [0, 1, 2]
    fresh = write_cache(dataset, tmp_path / "fresh", small_config())
    ours, theirs = (np.fromfile(folder / f"{FRONT}.bin", np.uint16) for folder in (tmp_path / "out", fresh))
    assert np.array_equal(ours, theirs)
    assert not (tmp_path / "out.partial").exists()


def test_augmented_copies_differ_and_the_first_does_not(dataset, tmp_path):
    out = write_cache(dataset, tmp_path / "copies", small_config(), copies=3, dtype="float32")
    plain = write_cache(dataset, tmp_path / "plain", small_config(), dtype="float32")
    ours = np.fromfile(out / f"{FRONT}.bin", np.float32).reshape(3, 21, -1)
    assert np.abs(ours[0] - np.fromfile(plain / f"{FRONT}.bin", np.float32).reshape(21, -1)).max() < 1e-4
    assert np.abs(ours[1] - ours[0]).mean() > 1e-2 and np.abs(ours[1] - ours[2]).mean() > 1e-2
    cache = FeatureCache(out, json.loads((out / "features.json").read_text())["key"], list(SIZES_HW))
    torch.manual_seed(0)
    drawn = [cache.read(torch.tensor([5])) for _ in range(20)]
    for camera in SIZES_HW:
        reads = torch.stack([sample[camera].flatten() for sample in drawn])
        assert len(reads.unique(dim=0)) == 3, "a sample takes each of the copies now and then"
    both = torch.stack([torch.cat([sample[camera].flatten() for camera in SIZES_HW]) for sample in drawn])
    assert len(both.unique(dim=0)) == 3, "all cameras of a sample see the same change"
    plain_cache = FeatureCache(plain, cache.info.key, list(SIZES_HW))
    as_it_is, alone = (c.read(torch.tensor([5]), augmented=False) for c in (cache, plain_cache))
    torch.testing.assert_close(as_it_is[FRONT], alone[FRONT], atol=1e-4, rtol=1e-4)


def test_an_augmentation_is_the_same_for_a_whole_episode():
    image = torch.rand(3, 20, 20)
    one, same, other = (Augmentation.draw(1, 7), Augmentation.draw(1, 7), Augmentation.draw(1, 8))
    assert torch.equal(one(image), same(image)) and not torch.equal(one(image), other(image))
    assert one(image).shape == image.shape and one(image).min() >= 0 and one(image).max() <= 1
    assert torch.equal(Augmentation.draw(0, 7)(image), image)
