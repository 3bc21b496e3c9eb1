"""A session says what the model says of the clip, for several streams, sizes and resets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omnistream_core.config import ModelConfig, StreamConfig
from omnistream_core.errors import ConfigError
from omnistream_core.model import build_model
from omnistream_core.preprocess import to_image_size, to_model
from omnistream_core.session import StreamSession
from omnistream_core.types import CameraModel, Frame

SIZE_HW = (16, 24)
CPU = torch.device("cpu")


@pytest.fixture
def model(make_model):
    return make_model()


def frame_of(number: int, size_hw: tuple[int, int] = SIZE_HW, **fields) -> Frame:
    image = np.random.default_rng(number).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    return Frame(image_HW3=image, index=number, **fields)


def clip_of(model, frames: list[Frame], size_hw: tuple[int, int], visible=None):
    images = torch.stack([to_model(model.config.preprocess, f.image_HW3, size_hw, CPU) for f in frames])[None]
    with torch.inference_mode():
        return model(images, visible_TT=visible)


@pytest.mark.parametrize(("area_px", "size_hw"), [(None, (16, 24)), (8 * 12, (8, 12))])
def test_steps_are_the_clip_at_the_models_size(make_model, assert_same, visible_through, area_px, size_hw):
    model = make_model(area_px=area_px)
    frames = [frame_of(n, stamp_ns=100 + n, frame_id="cam") for n in range(7)]
    output = clip_of(model, frames, size_hw, visible_through(7, 3, 1))
    session = StreamSession(model, StreamConfig(window=3, sink=1))
    for t, frame in enumerate(frames):
        got = session.step(frame)
        geometry = output.geometry
        depth = to_image_size(geometry.depth_m_BTHW[0, t][None].log(), SIZE_HW)[0].exp()
        confidence = to_image_size(geometry.confidence_BTHW[0, t][None], SIZE_HW)[0]
        assert_same("depth", torch.from_numpy(got.depth_m_HW), depth)
        assert_same("confidence", torch.from_numpy(got.confidence_HW), confidence)
        assert_same("rays", torch.from_numpy(got.model_rays_hw6), geometry.rays_BTHW6[0, t])
        assert_same("position", torch.tensor(got.world_from_camera_44[:3, 3]), geometry.translation_m_BT3[0, t])
        assert_same("field of view", torch.tensor(got.fov_xy_rad), geometry.fov_xy_rad_BT2[0, t])
        patches = output.features.patches_BTND[0, t].unflatten(0, output.features.grid_hw)
        assert_same("features", torch.from_numpy(got.features_hwD), patches)
        assert_same("summary", torch.from_numpy(got.cls_D), output.features.cls_BTD[0, t])
        assert (got.index, got.stream_index, got.stamp_ns, got.frame_id) == (t, t, 100 + t, "cam")
        assert got.depth_m_HW.shape == got.confidence_HW.shape == SIZE_HW and got.rays_HW6.shape == (*SIZE_HW, 6)
        rotation = got.world_from_camera_44[:3, :3]
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert session.fill() == 4 and session.stream_index() == 7


def test_encode_is_the_backbone_of_step(model):
    stepped, encoded = StreamSession(model), StreamSession(model)
    for n in range(3):
        full, features = stepped.step(frame_of(n)), encoded.encode(frame_of(n))
        assert np.array_equal(full.features_hwD, features.features_hwD) and np.array_equal(full.cls_D, features.cls_D)
        assert full.stream_index == features.stream_index == n


def test_streams_of_different_sizes_beside_each_other(model, assert_same):
    """Streams that come, pause and are reset at different moments each see what they would see alone."""
    sizes = {0: (16, 24), 1: (16, 24), 2: (24, 8)}
    together = StreamSession(model, StreamConfig(window=3), streams=3)
    alone = {stream: StreamSession(model, StreamConfig(window=3)) for stream in sizes}
    moments = [((0, 1, 2), ()), ((0, 2), ()), ((0, 1, 2), (0,)), ((1,), ()), ((2, 1, 0), (1, 2)), ((0, 1, 2), ())]
    for moment, (stepping, resets) in enumerate(moments):
        together.reset(resets)
        for stream in resets:
            alone[stream].reset()
        frames = {stream: frame_of(10 * moment + stream, sizes[stream]) for stream in stepping}
        predictions = together.step_many(frames)
        assert set(predictions) == set(stepping)
        for stream, got in predictions.items():
            expected = alone[stream].step(frames[stream])
            assert_same(f"stream {stream}", torch.tensor(got.depth_m_HW), torch.tensor(expected.depth_m_HW))
            assert got.stream_index == expected.stream_index and got.index == frames[stream].index
    assert together.stats.frames == 15 and together.stats.resets == len(moments)


def test_another_size_needs_a_reset(model):
    session = StreamSession(model)
    session.step(frame_of(0, (16, 24)))
    with pytest.raises(ConfigError, match=r"24x8 px .*16x24 px.*reset"):
        session.step(frame_of(1, (24, 8)))
    assert session.stream_index() == 1
    session.reset()
    assert session.step(frame_of(1, (24, 8))).stream_index == 0


def test_many_sizes_do_not_pile_up_memories(model):
    session = StreamSession(model, streams=2)
    for n in range(1, 8):
        session.step_many({0: frame_of(n, (8, 8 * n)), 1: frame_of(n, (16, 16))})
        session.reset([0])
        assert len(session._caches) <= 2
    assert session.stream_index(1) == 7
    first = session.step(frame_of(0, (8, 8)), stream=0)
    assert np.array_equal(first.depth_m_HW, StreamSession(model).step(frame_of(0, (8, 8))).depth_m_HW)


def test_points_are_unprojected_depth_of_the_camera_that_the_frame_brings(model):
    camera = CameraModel(width_px=24, height_px=16, fx_px=20.0, fy_px=21.0, cx_px=11.0, cy_px=9.0)
    session = StreamSession(model)
    session.step(frame_of(0))
    for frame, known in ((frame_of(1, camera=camera), True), (frame_of(2), False)):
        got = session.step(frame)
        k = camera if known else got.camera
        if not known:
            assert np.isclose(2 * np.arctan(12 / k.fx_px), got.fov_xy_rad[0])
            assert np.isclose(2 * np.arctan(8 / k.fy_px), got.fov_xy_rad[1])
        assert got.camera == k
        for i, j in ((0, 0), (3, 20), (15, 23)):
            local = np.linalg.inv(k.matrix_33) @ (j + 0.5, i + 0.5, 1.0) * got.depth_m_HW[i, j]
            world = got.world_from_camera_44[:3, :3] @ local + got.world_from_camera_44[:3, 3]
            assert np.allclose(got.points_m_HW3[i, j], world, atol=1e-5 * max(1, np.abs(world).max()))
    assert got.points_m_HW3.dtype == np.float32 and got.points_m_HW3 is got.points_m_HW3


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((16, 24, 3), np.float32), "float32"),
        (np.zeros((16, 24), np.uint8), r"\(16, 24\)"),
        (np.zeros((16, 24, 4), np.uint8), r"\(16, 24, 4\)"),
        (np.zeros((0, 24, 3), np.uint8), r"\(0, 24, 3\)"),
        ([[0]], "list"),
    ],
)
def test_wrong_images_are_named(model, image, said):
    with pytest.raises(ConfigError, match=rf"frame 5: image is .*{said}.*uint8 \(H, W, 3\)"):
        StreamSession(model).step(Frame(image_HW3=image, index=5))


def test_wrong_requests_are_named(model):
    session = StreamSession(model, streams=2)
    for call in (lambda: session.step(frame_of(0), stream=2), lambda: session.reset([-1])):
        with pytest.raises(ConfigError, match=r"stream (2|-1) does not exist.*0\.\.1"):
            call()
    camera = CameraModel(width_px=16, height_px=24, fx_px=9.0, fy_px=9.0, cx_px=8.0, cy_px=8.0)
    with pytest.raises(ConfigError, match=r"16x24 px, the image of 24x16"):
        session.step(frame_of(0, camera=camera))
    with pytest.raises(ConfigError, match="0 streams"):
        StreamSession(model, streams=0)
    with pytest.raises(ConfigError, match="'abacus'"):
        StreamSession(model, StreamConfig(device="abacus"))
    bare = build_model(ModelConfig(backbone=model.config.backbone, heads=None))
    with pytest.raises(ConfigError, match=r"encode\(\), not step\(\)"):
        StreamSession(bare).step(frame_of(0))
    assert session.stats.frames == 0 and session.stream_index() == 0


def test_one_bad_frame_of_several_moves_no_stream(model):
    session = StreamSession(model, streams=2)
    bad = Frame(image_HW3=np.zeros((16, 24, 3), np.float32), index=0)
    with pytest.raises(ConfigError):
        session.step_many({0: frame_of(0), 1: bad})
    assert session.stream_index(0) == session.stream_index(1) == 0


def test_warm_up_leaves_no_trace(model):
    warm, cold = StreamSession(model, streams=2), StreamSession(model, streams=2)
    warm.warm_up(SIZE_HW)
    held = warm.stats.cache_bytes
    assert held > 0 and warm.stats.last_step_s == cold.stats.last_step_s
    assert (warm.stats.frames, warm.stats.resets, warm.stream_index(1), warm.fill(1)) == (0, 0, 0, 0)
    for n in range(3):
        pair = [s.step_many({0: frame_of(n), 1: frame_of(9 - n)}) for s in (warm, cold)]
        for stream in (0, 1):
            assert np.array_equal(pair[0][stream].depth_m_HW, pair[1][stream].depth_m_HW)
            assert pair[0][stream].stream_index == n
    assert warm.stats.cache_bytes == held
    with pytest.raises(ConfigError, match=r"warm_up while streams \[0, 1\] run"):
        warm.warm_up(SIZE_HW)


@pytest.mark.parametrize(("rope_time", "frames"), [(True, 3), (False, 1)])
def test_the_same_model_trains_after_a_session_saw_its_size_first(make_model, rope_time, frames):
    """Nothing that a session leaves behind, such as kept tables, may be refused by autograd."""
    # A configuration of its own, of which nothing is kept yet; and without rescaling training asks for the same tables.
    model = make_model(registers=3, rope_time=rope_time, rope_rescale=1.0)
    session = StreamSession(model)
    session.step(frame_of(0))
    model.train()
    images = torch.randn(1, frames, 3, *SIZE_HW)
    model(images).geometry.depth_m_BTHW.sum().backward()
    assert model.backbone.patch_embed.weight.grad.abs().sum() > 0
    model.eval()
    session.step(frame_of(1))


def test_masks_kept_by_inference_serve_training():
    from omnistream_core.layers.attention import _block_mask

    with torch.inference_mode():
        mask = _block_mask(((True, False), (True, True)), 5, CPU)
    assert not mask.kv_indices.is_inference() and not mask.kv_num_blocks.is_inference()


def test_bfloat16_is_close_to_float32(make_model):
    frames = [frame_of(n) for n in range(6)]
    full = StreamSession(make_model(layer_scale_init=0.1))
    half = StreamSession(make_model(layer_scale_init=0.1), StreamConfig(dtype="bfloat16"))
    for frame in frames:
        a, b = full.step(frame), half.step(frame)
        relative = np.abs(np.log(b.depth_m_HW / a.depth_m_HW))
        features = np.abs(a.features_hwD - b.features_hwD).mean() / np.abs(a.features_hwD).mean()
        print(f"depth: max {relative.max():.3f} mean {relative.mean():.3f}; features: mean {features:.3f}")
        assert relative.mean() < 0.05 and features < 0.1
        assert b.depth_m_HW.dtype == np.float32
    assert half.stats.cache_bytes * 2 == full.stats.cache_bytes
