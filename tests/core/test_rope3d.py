"""3D rotary positions against the formula written out, and far into a stream."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistream_core.config import BackboneConfig
from omnistream_core.layers.rope3d import rope_tables, rotate

CPU = torch.device("cpu")


def config_of(layout: str, head_dim: int, registers: int = 1) -> BackboneConfig:
    return BackboneConfig(width=head_dim, depth=1, heads=1, levels=(), rope_layout=layout, registers=registers)


def angle(layout: str, channel: int, d: int, y: float, x: float, frame: int) -> float:
    """The angle of one channel as the paper's formula has it, nothing shared with the code."""
    if channel % 4 == 3:
        number = channel % (d // 2) // 4
        coordinate = frame / 16
    else:
        number = channel % (d // 4)
        quarter = channel // (d // 4)
        coordinate = {"paired": (y, x, y, x), "official": (y, y, x, x)}[layout][quarter]
    return 2 * math.pi * coordinate / 100 ** (2 * number / (d / 2))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    layout=st.sampled_from(["paired", "official"]),
    head_dim=st.sampled_from([8, 16, 24, 64]),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    frame=st.integers(0, 300),
    registers=st.integers(0, 4),
)
def test_tables_are_the_formula_and_rotate_pairs_half_a_head_apart(layout, head_dim, h, w, frame, registers):
    config = config_of(layout, head_dim, registers)
    tables = rope_tables(config, torch.tensor([[frame]]), (h, w), device=CPU, dtype=torch.float64)
    cos_PD, sin_PD = (table[0, 0] for table in tables)
    torch.manual_seed(0)
    x_PD = torch.randn(config.tokens_per_frame((h, w)), head_dim, dtype=torch.float64)
    turned_PD = rotate(x_PD[None, None], cos_PD[None], sin_PD[None])[0, 0]
    prefix = config.prefix_tokens
    assert torch.equal(turned_PD[:prefix], x_PD[:prefix])
    half = head_dim // 2
    for token in range(h * w):
        y, x = 2 * (token // w + 0.5) / h - 1, 2 * (token % w + 0.5) / w - 1
        for j in range(half):
            a, b = (float(x_PD[prefix + token, c]) for c in (j, j + half))
            first, second = (angle(layout, c, head_dim, y, x, frame) for c in (j, j + half))
            expected = (a * math.cos(first) - b * math.sin(first), b * math.cos(second) + a * math.sin(second))
            got = [float(turned_PD[prefix + token, c]) for c in (j, j + half)]
            assert got == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("layout", ["paired", "official"])
def test_two_of_eight_channels_are_of_time(layout):
    config = config_of(layout, 64, registers=0)
    cos, _ = rope_tables(config, torch.tensor([[0, 5]]), (2, 3), device=CPU, dtype=torch.float64)
    moved = (cos[0, 0, 2:] != cos[0, 1, 2:]).all(0)
    assert moved.nonzero().flatten().tolist() == [c for c in range(64) if c % 4 == 3]


@pytest.mark.parametrize("frame", [0, 17, 10_000_000, 2**31 + 5])
def test_time_is_exact_far_into_a_stream(frame):
    config = config_of("paired", 64)
    tolerance = 1e-6 if frame <= 10_000_000 else 1e-4
    cos, sin = rope_tables(config, torch.tensor([[frame]]), (1, 1), device=CPU, dtype=torch.float32)
    mpmath.mp.dps = 50
    for channel in range(3, 64, 4):
        period = mpmath.mpf(100) ** (mpmath.mpf(2 * (channel % 32 // 4)) / 32)
        exact = 2 * mpmath.pi * mpmath.mpf(frame) / 16 / period
        assert float(cos[0, 0, -1, channel]) == pytest.approx(float(mpmath.cos(exact)), abs=tolerance)
        assert float(sin[0, 0, -1, channel]) == pytest.approx(float(mpmath.sin(exact)), abs=tolerance)


@pytest.mark.parametrize("layout", ["paired", "official"])
def test_ten_million_frames_on_scores_depend_on_time_differences_alone(layout, assert_same):
    """Of patches with patches; tokens before the patches carry no position at all."""
    config = config_of(layout, 64)
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, config.tokens_per_frame((3, 5)), 64)

    def scores(query_frame: int, key_frame: int) -> torch.Tensor:
        turned = [
            rotate(
                x, *(t[0] for t in rope_tables(config, torch.tensor([[f]]), (3, 5), device=CPU, dtype=torch.float32))
            )
            for x, f in ((q, query_frame), (k, key_frame))
        ]
        return (turned[0] @ turned[1].mT / 8)[..., config.prefix_tokens :, config.prefix_tokens :]

    for ahead in (0, 1, 7, 40):
        far = scores(10_000_000 + ahead, 10_000_000)
        assert_same(f"{layout}, {ahead} frames apart", far, scores(ahead, 0), 1e-5)
    assert (scores(7, 0) - scores(8, 0)).abs().max() > 1e-2


def test_rescaling_stretches_the_coordinates():
    config = config_of("paired", 16, registers=0)
    frames = torch.tensor([[3]])
    doubled = rope_tables(config, frames, (2, 2), device=CPU, dtype=torch.float64, scale_t=2.0)[0]
    later = rope_tables(config, frames * 2, (2, 2), device=CPU, dtype=torch.float64)[0]
    assert torch.allclose(doubled, later, atol=1e-12)
    wide = rope_tables(config, frames, (2, 2), device=CPU, dtype=torch.float64, scale_yx=2.0)[0]
    space = torch.arange(16) % 4 != 3
    assert not torch.allclose(wide[..., space], later[..., space])
