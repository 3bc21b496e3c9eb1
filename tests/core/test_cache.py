"""The memory: its size, what it allocates, what a reset touches, and that a live frame needs no mask."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omnistream_core.cache import KVCache
from omnistream_core.config import BackboneConfig
from omnistream_core.errors import ConfigError
from omnistream_core.layers import attention

GRID_HW = (2, 3)


def stores_of(cache: KVCache) -> list[torch.Tensor]:
    return [*cache._keys_BHSD, *cache._values_BHSD]


def frames_of(count: int, streams: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(streams, count, 3, 8, 12, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    window=st.integers(1, 6),
    sink=st.integers(0, 4),
    streams=st.integers(1, 3),
    grid_hw=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    registers=st.integers(0, 4),
    camera_token=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_bytes_are_known_before_and_are_what_is_held(window, sink, streams, grid_hw, registers, camera_token, dtype):
    config = BackboneConfig(width=48, depth=2, heads=2, levels=(), registers=registers, camera_token=camera_token)
    cache = KVCache(config, grid_hw=grid_hw, streams=streams, window=window, sink=sink, dtype=dtype)
    needed = KVCache.bytes_needed(config, grid_hw=grid_hw, frames=sink + window, streams=streams, dtype=dtype)
    assert cache.nbytes == needed == sum(s.untyped_storage().nbytes() for s in stores_of(cache))
    assert cache.slots == sink + window


class NewStorages(TorchDispatchMode):
    """Names the operators whose result lies neither in ``known`` storages nor in one of their arguments'."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.found = known, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.known | given:
                self.found.append(str(func))
        return result


def watched(cache: KVCache, method: str, found: list[str]):
    """A patch that runs one method of ``cache`` under ``NewStorages``."""
    original = getattr(cache, method)

    def run(*args, **kwargs):
        with NewStorages({s.untyped_storage().data_ptr() for s in stores_of(cache)}) as new:
            result = original(*args, **kwargs)
        found.extend(new.found)
        return result

    return mock.patch.object(cache, method, run)


@torch.inference_mode()
def test_a_bounded_memory_allocates_nothing_after_it_is_made(make_backbone):
    backbone = make_backbone()
    cache = KVCache(backbone.config, grid_hw=GRID_HW, streams=2, window=3, sink=1)
    where, held, found = [s.data_ptr() for s in stores_of(cache)], cache.nbytes, []
    images = frames_of(12, streams=2)
    with (
        watched(cache, "remember", found),
        watched(cache, "reserve", found),
        watched(cache, "advance", found),
        watched(cache, "reset", found),
    ):
        for t in range(12):
            backbone(images[:, t : t + 1], cache)
            if t == 7:
                cache.reset([1])
    assert found == []
    assert [s.data_ptr() for s in stores_of(cache)] == where and cache.nbytes == held


@torch.inference_mode()
def test_the_watch_sees_a_memory_that_grows(make_backbone):
    backbone = make_backbone()
    cache = KVCache(backbone.config, grid_hw=GRID_HW, window=None, block_frames=2)
    found: list[str] = []
    with watched(cache, "reserve", found):
        for t in range(3):
            backbone(frames_of(3)[:, t : t + 1], cache)
    assert any("zeros" in name for name in found)


@torch.inference_mode()
def test_an_unbounded_memory_grows_in_blocks_and_keeps_what_it_has(make_backbone):
    backbone = make_backbone()
    cache = KVCache(backbone.config, grid_hw=GRID_HW, window=None, block_frames=2)
    slots, images = [], frames_of(20)
    for t in range(20):
        before = [s[:, :, : cache.fill(0) * cache.tokens_per_frame].clone() for s in stores_of(cache)]
        backbone(images[:, t : t + 1], cache)
        for old, new in zip(before, stores_of(cache), strict=True):
            assert torch.equal(old, new[:, :, : old.shape[2]])
        slots.append(cache.slots)
        assert cache.fill(0) == t + 1 <= cache.slots and cache.slots % 2 == 0
    assert len(set(slots)) <= 5, f"grew at nearly every frame: {slots}"


@torch.inference_mode()
def test_reset_of_one_row_leaves_the_others_bitwise(make_backbone):
    backbone = make_backbone()
    images = frames_of(8, streams=3)
    caches = [KVCache(backbone.config, grid_hw=GRID_HW, streams=3, window=3, sink=1) for _ in range(2)]
    for t in range(5):
        for cache in caches:
            backbone(images[:, t : t + 1], cache)
    before = [s.clone() for s in stores_of(caches[0])]
    caches[0].reset([1])
    assert [caches[0].frame_count(row) for row in range(3)] == [5, 0, 5]
    assert [caches[0].fill(row) for row in range(3)] == [4, 0, 4]
    for old, new in zip(before, stores_of(caches[0]), strict=True):
        assert torch.equal(old[[0, 2]], new[[0, 2]])
    for t in range(5, 8):  # the others go on alone, so that their batches are the same in both memories
        changed, whole = (backbone(images[[0, 2], t : t + 1], cache, rows=[0, 2]) for cache in caches)
        assert torch.equal(changed.patches_BTND, whole.patches_BTND)


@torch.inference_mode()
def test_what_a_stream_saw_before_its_reset_is_gone_bitwise(make_backbone):
    backbone = make_backbone()
    used, fresh = (KVCache(backbone.config, grid_hw=GRID_HW, window=3, sink=1) for _ in range(2))
    for t in range(6):
        backbone(frames_of(6, seed=1)[:, t : t + 1], used)
    used.reset()
    for t in range(6):
        image = frames_of(6)[:, t : t + 1]
        assert torch.equal(backbone(image, used).patches_BTND, backbone(image, fresh).patches_BTND)


@torch.inference_mode()
def test_the_counter_is_absolute(make_backbone):
    """A full window does not stop time: an unchanged image goes on being another moment."""
    backbone = make_backbone()
    cache = KVCache(backbone.config, grid_hw=GRID_HW, window=2, sink=1)
    images = frames_of(40)
    for t in range(40):
        backbone(images[:, t : t + 1], cache)
    assert cache.frame_count(0) == 40 and cache.fill(0) == 3
    tables = mock.Mock(wraps=backbone._rope)
    with mock.patch.object(backbone, "_rope", tables):
        backbone(images[:, :1], cache)
    assert tables.call_args.args[0].tolist() == [[40]]


@pytest.mark.parametrize("window", [None, 4])
@torch.inference_mode()
def test_a_live_frame_attends_to_views_of_the_memory_without_a_mask(make_backbone, window):
    backbone = make_backbone(depth=3)
    cache = KVCache(backbone.config, grid_hw=GRID_HW, window=window, sink=1)
    backbone(frames_of(6), cache)
    spy = mock.Mock(wraps=scaled_dot_product_attention)
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", spy):
        backbone(frames_of(1), cache)
    assert spy.call_count == 3
    frames = min(7, 5) if window else 7
    for number, call in enumerate(spy.call_args_list):
        q, k, v = call.args
        assert call.kwargs.get("attn_mask") is None and not call.kwargs.get("is_causal", False)
        assert q.shape[2] == cache.tokens_per_frame and k.shape[2] == frames * cache.tokens_per_frame
        assert k.data_ptr() == cache._keys_BHSD[number].data_ptr()
        assert v.data_ptr() == cache._values_BHSD[number].data_ptr()


class AsIfOnCuda(torch.Tensor):
    """A CPU tensor that says it lies on CUDA, to show which kernel is chosen there."""

    is_cuda = property(lambda self: True)


def test_flash_attention_is_used_where_it_is_installed(assert_same, monkeypatch):
    """It wants (B, S, H, D), in a half precision, and no mask."""
    calls = []

    def flash(q_BSHD, k_BSHD, v_BSHD):
        calls.append(tuple(q_BSHD.shape))
        q, k, v = (x.as_subclass(torch.Tensor).transpose(1, 2).double() for x in (q_BSHD, k_BSHD, v_BSHD))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).to(q_BSHD.dtype)

    monkeypatch.setattr(attention, "flash_attn_func", flash)
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 11, 16), torch.randn(2, 3, 11, 16)
    half = [x.bfloat16() for x in (q, k, v)]
    found = attention.attend(*(x.as_subclass(AsIfOnCuda) for x in half))
    assert calls == [(2, 5, 3, 16)]
    assert_same("flash", found, scaled_dot_product_attention(*(x.float() for x in half)), 0.02)
    attention.attend(*half)
    attention.attend(*(x.as_subclass(AsIfOnCuda) for x in (q, k, v)))
    attention.attend(*(x.as_subclass(AsIfOnCuda) for x in half), torch.ones(5, 11, dtype=torch.bool))
    assert len(calls) == 1, "used on a CPU, in float32 or under a mask"


def test_wrong_sizes_are_named(make_backbone):
    backbone = make_backbone()
    with pytest.raises(ConfigError, match="window 0"):
        KVCache(backbone.config, grid_hw=GRID_HW, window=0)
    cache = KVCache(backbone.config, grid_hw=GRID_HW, streams=2)
    with torch.inference_mode():
        for images, rows, message in (
            (torch.zeros(2, 1, 3, 8, 8), None, r"\(2, 2\) patches do not fit a cache of \(2, 3\)"),
            (frames_of(1), None, "batch of 1"),
            (frames_of(1), [2], r"rows \[2\].*0\.\.1"),
            (frames_of(1, streams=2), [1, 1], r"rows \[1, 1\]"),
        ):
            with pytest.raises(ValueError, match=message):
                backbone(images, cache, rows=rows)
    assert [cache.frame_count(row) for row in range(2)] == [0, 0]


def test_a_memory_refuses_to_hold_gradients(make_backbone):
    """It would keep the graph of every frame for ever, and could not be differentiated through all the same."""
    backbone = make_backbone()
    cache = KVCache(backbone.config, grid_hw=GRID_HW)
    with pytest.raises(ValueError, match=r"inference_mode\(\) or torch\.no_grad\(\)"):
        backbone(frames_of(1), cache)
    with torch.no_grad():
        backbone(frames_of(1), cache)
    assert cache.frame_count(0) == 1 and not any(s.requires_grad for s in stores_of(cache))
