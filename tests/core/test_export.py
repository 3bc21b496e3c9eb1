"""What is exported says what a session's model says, frame by frame, in torch, in AOTInductor and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from omnistream_core.cache import KVCache
from omnistream_core.config import preset
from omnistream_core.errors import OmniStreamError
from omnistream_core.export import StreamStep, export
from omnistream_core.layers.rope3d import LiveRope, rope_tables
from omnistream_core.preprocess import normalise

IMAGE_HW, WINDOW, SINK, FRAMES = (8, 12), 3, 1, 9


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(*IMAGE_HW, 3, generator=generator) * 255 for _ in range(FRAMES)]


@pytest.fixture(scope="module", params=["paired", "official"])
def step(make_model, request) -> StreamStep:
    return StreamStep(make_model(rope_layout=request.param), image_hw=IMAGE_HW, window=WINDOW, sink=SINK)


@torch.inference_mode()
def expected_of(step: StreamStep, start: int = 0) -> list[list[Tensor]]:
    """The model through its own memory."""
    cache, out = KVCache(step.config, grid_hw=step.grid_hw, window=WINDOW, sink=SINK), []
    cache.advance([0], start)
    for image_HW3 in images():
        batch = normalise(step.model.config.preprocess, image_HW3.permute(2, 0, 1))[None, None]
        output = step.model(batch, cache)
        g = output.geometry
        said = [output.features.patches_BTND, output.features.cls_BTD, g.depth_m_BTHW, g.confidence_BTHW, g.rays_BTHW6]
        said += [g.quaternion_BT4, g.translation_m_BT3, g.fov_xy_rad_BT2]
        out.append([tensor[0, 0] for tensor in said])
    return out


def compare(step: StreamStep, run, assert_same, tolerance: float) -> None:
    state = step.empty_state()
    for t, (image, expected) in enumerate(zip(images(), expected_of(step), strict=True)):
        said, state = run(image, torch.tensor([t]), state)
        for name, found, wanted in zip(step.output_names, said, expected, strict=True):
            assert_same(f"frame {t} {name}", found, wanted, tolerance * max(1.0, float(wanted.abs().max())))


def test_the_step_is_the_model(step, assert_same):
    with torch.inference_mode():
        compare(step, step, assert_same, 1e-5)


@pytest.mark.parametrize("frame", [0, 1, 63, 64, 4_095, 1_000_003, 16_000_000])
def test_far_frames_turn_as_they_should(assert_same, frame):
    """Digit by digit in float32 as at once in float64."""
    config = preset("tiny").backbone
    expected = rope_tables(config, torch.tensor([[frame]]), (2, 3), device=torch.device("cpu"), dtype=torch.float64)
    found = LiveRope(config, (2, 3), torch.device("cpu"))(torch.tensor([frame]), torch.float32)
    for name, ours, theirs in zip(("cosine", "sine"), found, expected, strict=True):
        assert_same(f"{name} at {frame}", ours, theirs[:, 0], 1e-4)


def test_onnx_runtime_gives_the_same_numbers(step, assert_same, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = export(step, tmp_path / "step.onnx", "onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["image_HW3", "frame_1", *step.state_names]
    assert [o.name for o in session.get_outputs()][: len(step.output_names)] == list(step.output_names)

    def run(image: Tensor, frame: Tensor, state: tuple[Tensor, ...]):
        inputs = dict(zip([i.name for i in session.get_inputs()], (image, frame, *state), strict=True))
        out = [torch.from_numpy(x) for x in session.run(None, {k: v.numpy() for k, v in inputs.items()})]
        return out[: len(step.output_names)], tuple(out[len(step.output_names) :])

    compare(step, run, assert_same, 1e-3)


@pytest.mark.slow
def test_an_aotinductor_package_gives_the_same_numbers(make_model, assert_same, tmp_path):
    step = StreamStep(make_model(), image_hw=IMAGE_HW, window=WINDOW, sink=SINK)
    package = torch._inductor.aoti_load_package(str(export(step, tmp_path / "step.pt2", "aoti")))
    compare(step, package, assert_same, 1e-4)


def test_another_format_is_refused(make_model):
    with pytest.raises(OmniStreamError, match="'tensorrt': one of"):
        export(StreamStep(make_model(), image_hw=IMAGE_HW, window=1, sink=0), Path("x"), "tensorrt")
