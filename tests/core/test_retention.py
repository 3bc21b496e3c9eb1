"""What a policy keeps, told by a list of frames that is updated step by step; and the bound in megabytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistream_core.cache import KVCache
from omnistream_core.config import StreamConfig, preset
from omnistream_core.errors import ConfigError
from omnistream_core.model import build_model
from omnistream_core.retention import Everything, Older, Recent
from omnistream_core.session import StreamSession
from omnistream_core.types import Frame

counts = st.integers(1, 60)


def replayed(policy, frames: int) -> list[list[float] | None]:
    """What each slot holds after so many frames: the numbers of the frames whose mean it is, each with its weight."""
    slots: dict[int, dict[int, float]] = {}
    for frame in range(frames):
        placed = policy.place(frame)
        if placed.fold is not None:
            old, weight = slots.get(placed.fold.target, {}), placed.fold.weight
            mixed = {f: (1 - weight) * w for f, w in old.items() if weight < 1}
            for f, w in slots[placed.fold.source].items():
                mixed[f] = mixed.get(f, 0) + weight * w
            slots[placed.fold.target] = mixed
        slots[placed.slot] = {frame: 1.0}
        assert sorted(slots) == list(range(placed.fill)), "what may be seen is a prefix without gaps"
    return [slots[number] for number in sorted(slots)]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(frames=counts, window=st.integers(1, 6), sink=st.integers(0, 3))
def test_recent_keeps_the_first_and_the_newest(frames, window, sink):
    held = {f for slot in replayed(Recent(window=window, sink=sink), frames) for f in slot}
    assert held == {f for f in range(frames) if f < sink or f >= frames - window}


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    frames=counts, window=st.integers(1, 4), sink=st.integers(0, 2), older=st.integers(1, 3), every=st.integers(1, 4),
    mean=st.booleans(),
)  # fmt: skip
def test_older_frames_are_pooled_or_thinned_evenly(frames, window, sink, older, every, mean):
    policy = Older(window=window, sink=sink, older=older, every=every, mean=mean)
    slots = replayed(policy, frames)
    assert len(slots) <= policy.slots
    recent, pools = slots[: sink + window], slots[sink + window :]
    assert {f for slot in recent for f in slot} == {f for f in range(frames) if f < sink or f >= frames - window}
    left = [range(sink, frames - window)[i : i + every] for i in range(0, max(frames - window - sink, 0), every)]
    expected = [list(group) if mean else [group[0]] for group in left[-older:]]
    assert sorted(sorted(slot) for slot in pools) == expected
    for slot in pools:
        assert np.allclose(list(slot.values()), 1 / len(slot)), "a pool is a mean, every frame counts alike"


def test_everything_keeps_everything():
    assert [list(slot) for slot in replayed(Everything(), 5)] == [[0], [1], [2], [3], [4]]
    assert Everything().slots is None


@torch.inference_mode()
def test_a_pooled_memory_holds_the_mean_of_its_keys(make_backbone):
    """In the tensors themselves, against a memory that keeps everything."""
    backbone = make_backbone(depth=1, levels=(0,))
    images = torch.randn(1, 9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pooled = KVCache(backbone.config, grid_hw=(2, 2), keeps=Older(window=2, sink=1, older=2, every=3))
    whole = KVCache(backbone.config, grid_hw=(2, 2), window=None)
    for t in range(9):
        for cache in (pooled, whole):
            backbone(images[:, t : t + 1], cache)
    p = whole.tokens_per_frame
    for store, kept in ((pooled._keys_BHSD[0], whole._keys_BHSD[0]), (pooled._values_BHSD[0], whole._values_BHSD[0])):
        frames = kept[:, :, : 9 * p].unflatten(2, (9, p))
        for slot, members in ((3, slice(1, 4)), (4, slice(4, 7))):
            assert torch.allclose(store[:, :, slot * p : (slot + 1) * p], frames[:, :, members].mean(2), atol=1e-6)


@pytest.mark.parametrize("engine", ["torch", "auto"])
@pytest.mark.parametrize("cache_dtype", ["float32", "bfloat16", "int8"])
def test_the_bound_in_megabytes_is_kept_and_used(engine, cache_dtype):
    model = build_model(preset("tiny"))
    config = StreamConfig(window=None, cache_mb=8.0, older=2, cache_dtype=cache_dtype, engine=engine)
    session = StreamSession(model, config, streams=2)
    image = np.zeros((96, 128, 3), np.uint8)
    session.encode_many({0: Frame(image_HW3=image, index=0), 1: Frame(image_HW3=image, index=0)})
    held = session.stats.cache_bytes / 2**20
    print(f"{session.engine}, {cache_dtype}: {held:.2f} MB of 8")
    frame = KVCache.bytes_needed(
        model.config.backbone, grid_hw=(6, 8), frames=3, streams=2, dtype=getattr(torch, cache_dtype)
    )
    assert 8.0 - frame / 2**20 < held <= 8.0


def test_a_bound_without_room_is_refused():
    model = build_model(preset("tiny"))
    frame = Frame(image_HW3=np.zeros((96, 128, 3), np.uint8), index=0)
    for config in (StreamConfig(window=16, cache_mb=2.0), StreamConfig(window=None, cache_mb=0.01)):
        with pytest.raises(ConfigError, match="do not fit"):
            StreamSession(model, config).encode(frame)
    with pytest.raises(ConfigError, match="nothing ever leaves"):
        StreamConfig(window=None, older=3)
