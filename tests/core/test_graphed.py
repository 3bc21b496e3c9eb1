"""What is captured computes what the plain path computes; on a CPU the same step runs uncaptured."""

from __future__ import annotations

import pytest
import torch

from omnistream_core.cache import KVCache
from omnistream_core.config import StreamConfig, preset
from omnistream_core.graphed import GraphedBackbone, LiveStep, can_replay
from omnistream_core.model import build_model
from omnistream_core.session import StreamSession

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device that torch can use")
GRID_HW = (2, 3)


def images(count: int, streams: int = 2) -> torch.Tensor:
    return torch.randn(streams, count, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def filled(backbone, **settings) -> KVCache:
    """A full memory whose second stream is ahead of the first."""
    cache = KVCache(backbone.config, grid_hw=GRID_HW, streams=2, window=3, sink=1, **settings)
    backbone(images(4).to(backbone.cls_token), cache)
    backbone(images(2, streams=1).to(backbone.cls_token), cache, rows=[1])
    return cache


@torch.inference_mode()
def test_a_live_step_is_the_plain_step(make_backbone, assert_same):
    backbone = make_backbone()
    plain, live_cache = filled(backbone), filled(backbone)
    live = LiveStep(backbone, live_cache, (8, 12), torch.float32)
    for t in range(5):
        image = images(9)[:, t : t + 1]
        expected = backbone(image, plain)
        live.images_B13HW.copy_(image)
        live.frame_B.copy_(torch.tensor([live_cache.frame_count(row) for row in (0, 1)]))
        x_B1PC, levels = live()
        live_cache.advance([0, 1], 1)
        assert_same(f"frame {t}", backbone.output(x_B1PC, levels, GRID_HW).patches_BTND, expected.patches_BTND, 2e-5)
        assert_same(f"frame {t} level", levels[0], expected.levels_BTND[0], 2e-5)
    for ours, theirs in zip(live_cache._keys_BHSD, plain._keys_BHSD, strict=True):
        assert_same("memory", ours, theirs, 2e-5)


@torch.inference_mode()
def test_only_a_full_memory_of_recent_frames_is_replayed(make_backbone):
    backbone = make_backbone()
    cache = filled(backbone)
    assert can_replay(cache, 1, None) and can_replay(cache, 1, [0, 1])
    assert not can_replay(cache, 2, None) and not can_replay(cache, 1, [1, 0]) and not can_replay(cache, 1, [0])
    cache.reset([0])
    assert not can_replay(cache, 1, None)
    whole = KVCache(backbone.config, grid_hw=GRID_HW, window=None)
    assert not can_replay(whole, 1, None)
    with pytest.raises(ValueError, match="recent frames"):
        LiveStep(backbone, whole, (8, 12), torch.float32)


@needs_cuda
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
@torch.inference_mode()
def test_a_captured_step_is_the_plain_step(make_backbone, assert_same, dtype, tolerance):
    backbone = make_backbone().to("cuda", dtype)
    plain, graphed_cache = (filled(backbone, dtype=dtype, device="cuda") for _ in range(2))
    graphed = GraphedBackbone(backbone)
    for t in range(12):
        image = images(12)[:, t : t + 1].to("cuda", dtype)
        expected, found = backbone(image, plain), graphed(image, graphed_cache)
        assert_same(f"frame {t}", found.patches_BTND.float(), expected.patches_BTND.float(), tolerance)
        assert_same(f"frame {t} level", found.levels_BTND[1].float(), expected.levels_BTND[1].float(), tolerance)
    assert graphed._captured and graphed_cache.frame_count(0) == plain.frame_count(0)


@needs_cuda
@torch.inference_mode()
def test_results_outlive_the_next_replay(make_backbone):
    backbone = make_backbone().cuda()
    graphed, cache = GraphedBackbone(backbone), filled(backbone, device="cuda")
    first = graphed(images(1).cuda(), cache).patches_BTND
    kept = first.clone()
    graphed(images(1).cuda() + 1, cache)
    assert torch.equal(first, kept)


@needs_cuda
def test_a_session_on_cuda_takes_the_captured_step():
    session = StreamSession(build_model(preset("tiny")), StreamConfig(device="cuda", window=2))
    assert session.engine == "graph"
