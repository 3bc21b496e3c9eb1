"""The contract: whole clip == frame by frame == chunks, with and without a window, whatever steps beside it.

Every comparison prints its largest and mean difference. Shape letters: B streams, T frames, H W pixels.
"""

from __future__ import annotations

import warnings
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omnistream_core.cache import KVCache
from omnistream_core.layers.attention import attend, attend_clip
from omnistream_core.types import BackboneOutput

PROPERTY = settings(deadline=None, max_examples=25, derandomize=True)
FIELDS = ("patches_BTND", "cls_BTD", "cam_BTD", "registers_BTRD")

backbones = st.fixed_dictionaries(
    {
        "rope_layout": st.sampled_from(["paired", "official"]),
        "rope_time": st.sampled_from([True, True, False]),
        "camera_token": st.booleans(),
        "registers": st.integers(0, 2),
        "patch_px": st.sampled_from([4, 8]),
        "depth": st.integers(2, 3),
        "heads": st.sampled_from([2, 3]),
    }
)
windows = st.one_of(st.none(), st.integers(1, 5))
grids = st.tuples(st.integers(1, 3), st.integers(1, 3))


def tensors_of(output: BackboneOutput) -> dict[str, Tensor]:
    """Everything the backbone says, by name; registers only where there are some."""
    levels = {f"level {n}": level for n, level in enumerate(output.levels_BTND)}
    named = {name: getattr(output, name) for name in FIELDS} | levels
    return {name: value for name, value in named.items() if value is not None and value.numel()}


def joined(outputs: list[BackboneOutput]) -> dict[str, Tensor]:
    parts = [tensors_of(output) for output in outputs]
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def random_images(seed: int, b: int, t: int, grid_hw: tuple[int, int], patch_px: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, t, 3, grid_hw[0] * patch_px, grid_hw[1] * patch_px, generator=generator)


@PROPERTY
@given(
    fields=backbones,
    grid_hw=grids,
    streams=st.integers(1, 3),
    chunks=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    window=windows,
    sink=st.integers(0, 3),
    block_frames=st.integers(1, 4),
)
@torch.inference_mode()
def test_clip_is_frame_by_frame_is_chunks(
    make_backbone, assert_same, visible_through, fields, grid_hw, streams, chunks, window, sink, block_frames
):
    backbone = make_backbone(**fields)
    frames = sum(chunks)
    images = random_images(0, streams, frames, grid_hw, fields["patch_px"])
    expected = tensors_of(backbone(images, visible_TT=visible_through(frames, window, sink)))
    if window is None:
        for name, value in tensors_of(backbone(images)).items():
            assert torch.equal(value, expected[name]), "causal is the visibility of a memory without a window"
    for way, sizes in (("chunks", chunks), ("frame by frame", [1] * frames)):
        cache = KVCache(
            backbone.config, grid_hw=grid_hw, streams=streams, window=window, sink=sink, block_frames=block_frames
        )
        ends = list(accumulate(sizes))
        found = joined([backbone(images[:, end - n : end], cache) for n, end in zip(sizes, ends, strict=True)])
        for name, value in expected.items():
            assert_same(f"{way}, window {window}, sink {sink}: {name}", found[name], value)
        assert [cache.frame_count(row) for row in range(streams)] == [frames] * streams


@PROPERTY
@given(
    fields=backbones,
    window=windows,
    sink=st.integers(0, 2),
    schedule=st.lists(
        st.tuples(
            st.permutations(range(3)), st.integers(1, 3), st.sets(st.integers(0, 2), max_size=1), st.integers(1, 2)
        ),
        min_size=3,
        max_size=7,
    ),
)
@torch.inference_mode()
def test_streams_that_step_and_reset_at_different_moments(
    make_backbone, assert_same, visible_through, fields, window, sink, schedule
):
    """At each moment some rows, in any order, take a chunk; before it, some row may be reset."""
    backbone, grid_hw = make_backbone(**fields), (2, 2)
    cache = KVCache(backbone.config, grid_hw=grid_hw, streams=3, window=window, sink=sink, block_frames=2)
    seen: list[list[Tensor]] = [[], [], []]  # images of each row since its last reset
    for moment, (order, count, resets, chunk) in enumerate(schedule):
        cache.reset(resets)
        for row in resets:
            seen[row] = []
        rows = list(order[:count])
        images = random_images(moment, count, chunk, grid_hw, fields["patch_px"])
        output = tensors_of(backbone(images, cache, rows=rows))
        for b, row in enumerate(rows):
            seen[row].append(images[b])
            clip = torch.cat(seen[row])[None]
            alone = tensors_of(backbone(clip, visible_TT=visible_through(clip.shape[1], window, sink)))
            for name, value in alone.items():
                assert_same(f"moment {moment}, row {row}: {name}", output[name][b : b + 1], value[:, -chunk:])
            assert cache.frame_count(row) == clip.shape[1]


@PROPERTY
@given(fields=backbones, away=st.integers(1, 40))
@torch.inference_mode()
def test_a_clip_with_frames_far_apart_is_a_stream_that_forgot_those_between(make_backbone, assert_same, fields, away):
    backbone, grid_hw = make_backbone(**fields), (2, 2)
    images = random_images(0, 1, away + 1, grid_hw, fields["patch_px"])
    cache = KVCache(backbone.config, grid_hw=grid_hw, streams=1, window=1, sink=1)
    streamed = joined([backbone(image, cache) for image in images.split(1, dim=1)])
    clip = tensors_of(backbone(images[:, [0, away]], frame_index_T=torch.tensor([0, away])))
    for name, value in clip.items():
        assert_same(f"{away} frames later: {name}", streamed[name][:, [0, away]], value)


@settings(PROPERTY, max_examples=12)  # FlexAttention's masks are slow to make
@given(
    frames=st.integers(1, 5),
    tokens=st.integers(1, 7),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([8, 16]),
    causal=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_three_ways_over_a_clip_agree(assert_same, frames, tokens, heads, head_dim, causal, seed):
    torch.manual_seed(seed)
    q, k, v = 1.5 * torch.randn(3, 2, heads, frames * tokens, head_dim)
    visible = None if causal else (torch.rand(frames, frames) < 0.5) | torch.eye(frames, dtype=torch.bool)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.filterwarnings("ignore", message="flex_attention called without")
        ways = {m: attend_clip(q, k, v, frames, visible_TT=visible, method=m) for m in ("frames", "mask", "flex")}
    allowed = torch.ones(frames, frames).tril().bool() if visible is None else visible
    logits = (q.double() @ k.double().mT) / head_dim**0.5
    hidden = ~allowed.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    expected = logits.masked_fill(hidden, -torch.inf).softmax(-1) @ v.double()
    for method, found in ways.items():
        assert_same(method, found, expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
def test_attention_in_every_precision_is_the_formula(assert_same, dtype, tolerance):
    """On a CPU bfloat16 goes its own way; sharp and flat attention alike must come out."""
    torch.manual_seed(0)
    for sharpness in (0.3, 2.0):
        q, k = (sharpness * torch.randn(2, 3, n, 24).to(dtype) for n in (7, 61))
        v = torch.randn(2, 3, 61, 24).to(dtype)
        expected = (q.double() @ k.double().mT / 24**0.5).softmax(-1) @ v.double()
        assert_same(f"{dtype}, {sharpness}", attend(q, k, v), expected, tolerance)


@PROPERTY
@given(fields=backbones, frames=st.integers(2, 6), changed=st.integers(1, 5), window=windows, sink=st.integers(0, 2))
@torch.inference_mode()
def test_a_later_frame_changes_nothing_earlier(make_backbone, visible_through, fields, frames, changed, window, sink):
    """Bitwise, in a clip and in a stream; and the changed frame itself does change."""
    backbone, changed = make_backbone(**fields), min(changed, frames - 1)
    images = random_images(0, 1, frames, (2, 3), fields["patch_px"])
    other = images.clone()
    other[:, changed] += 1.0
    visible = visible_through(frames, window, sink)
    caches = [KVCache(backbone.config, grid_hw=(2, 3), window=window, sink=sink) for _ in range(2)]
    pairs = {
        "clip": [tensors_of(backbone(x, visible_TT=visible)) for x in (images, other)],
        "stream": [
            joined([backbone(x[:, t : t + 1], cache) for t in range(frames)])
            for x, cache in zip((images, other), caches, strict=True)
        ],
    }
    for way, (before, after) in pairs.items():
        for name, value in before.items():
            assert torch.equal(value[:, :changed], after[name][:, :changed]), f"{way}: {name} before frame {changed}"
            assert not torch.equal(value[:, changed], after[name][:, changed]), f"{way}: {name} ignores the image"


@torch.inference_mode()
def test_a_window_is_felt(make_backbone):
    """The checks above mean something: what a window hides changes the numbers far above their tolerance."""
    backbone = make_backbone()
    images = random_images(0, 1, 8, (2, 3), 4)
    caches = [KVCache(backbone.config, grid_hw=(2, 3), window=w, sink=0) for w in (None, 3)]
    whole, windowed = (joined([backbone(images[:, t : t + 1], c) for t in range(8)])["patches_BTND"] for c in caches)
    assert (whole[:, :3] - windowed[:, :3]).abs().max() < 1e-4
    assert (whole[:, 3:] - windowed[:, 3:]).abs().amax((0, 2, 3)).min() > 1e-2


@torch.inference_mode()
def test_first_and_later_frames_carry_their_own_tokens(make_backbone):
    """CAM and registers have one row for a stream's first frame, another for all later ones, in chunks as well."""
    backbone = make_backbone(depth=1, levels=(0,))
    images = random_images(0, 1, 1, (2, 2), 4).expand(1, 4, -1, -1, -1)
    cache = KVCache(backbone.config, grid_hw=(2, 2), window=None)
    backbone(images[:, :1], cache)
    start, index = torch.zeros(1, 1, dtype=torch.long), torch.tensor([[0, 1, 2, 3]])
    tokens = backbone.embed(images, index)
    assert not torch.equal(tokens[:, 0], tokens[:, 1])
    assert torch.equal(tokens[:, 1], tokens[:, 3])
    assert torch.equal(tokens[:, :1], backbone.embed(images[:, :1], start))
    with torch.no_grad():
        backbone.cam_token[0] += 5
        backbone.register_tokens[0] += 5
    changed = backbone.embed(images, index)
    assert not torch.equal(changed[:, 0], tokens[:, 0])
    assert torch.equal(changed[:, 1:], tokens[:, 1:])


@torch.inference_mode()
def test_a_memory_in_bfloat16_stays_close(make_backbone):
    backbone = make_backbone()
    images = random_images(0, 2, 10, (2, 3), 4)
    expected = backbone(images).patches_BTND
    cache = KVCache(backbone.config, grid_hw=(2, 3), streams=2, window=None, dtype=torch.bfloat16)
    found = torch.cat([backbone(images[:, t : t + 1], cache).patches_BTND for t in range(10)], dim=1)
    difference = (found - expected).abs()
    print(f"bfloat16 memory: max {difference.max():.2e} mean {difference.mean():.2e} of {expected.abs().mean():.2f}")
    assert found.dtype == torch.float32
    assert 0 < difference.mean() < 0.02 * expected.abs().mean()


@torch.inference_mode()
def test_visibility_must_fit_the_clip(make_backbone):
    backbone, images = make_backbone(), random_images(0, 1, 3, (2, 2), 4)
    for wrong in (torch.ones(2, 2).bool(), torch.ones(3, 3).tril(-1).bool()):
        with pytest.raises(ValueError, match=r"\(3, 3\) with a true diagonal"):
            backbone(images, visible_TT=wrong)
    with pytest.raises(ValueError, match="exclude each other"):
        backbone(images, KVCache(backbone.config, grid_hw=(2, 2)), visible_TT=torch.ones(3, 3).bool())
    with pytest.raises(ValueError, match="exclude each other"):
        backbone(images, KVCache(backbone.config, grid_hw=(2, 2)), frame_index_T=torch.arange(3))
