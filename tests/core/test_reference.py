"""The numbers of others: the official release's, and DINOv3's as `transformers` computes them.

Shape letters: B streams, T frames, P tokens of a frame, D channels.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omnistream_core.cache import KVCache
from omnistream_core.checkpoint import read_checkpoint, with_time
from omnistream_core.model import OmniStreamModel

OFFICIAL = Path(__file__).resolve().parents[3] / "shared" / "reference" / "official_tiny"
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="../shared/reference/official_tiny is absent")
WHERE = {"last": "patches_BTND", "cls": "cls_BTD", "reg": "registers_BTRD", "camera": "cam_BTD"}


def outputs_of(model: OmniStreamModel, images: torch.Tensor, cache: KVCache | None) -> dict[str, torch.Tensor]:
    """The release's names for our outputs, all tokens after every block included."""
    blocks: dict[str, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, n=n: blocks.__setitem__(f"block{n}", out))
        for n, block in enumerate(model.backbone.blocks)
    ]
    with torch.inference_mode():
        output = model.backbone(images, cache)
    for hook in hooks:
        hook.remove()
    found = {name: getattr(output, field) for name, field in WHERE.items() if getattr(output, field) is not None}
    return found | {name: x.unflatten(1, (images.shape[1], -1)) for name, x in blocks.items()}


@needs_official
@pytest.mark.parametrize("kind", ["nocam", "cam"])
@pytest.mark.parametrize("way", ["clip", "stream"])
def test_every_tensor_of_the_official_release(kind, way, assert_same):
    model = OmniStreamModel.from_pretrained(OFFICIAL, camera_token=kind == "cam")
    reference = load_file(OFFICIAL / "io.safetensors")
    images = reference["pixel_values"]
    if way == "clip":
        found = outputs_of(model, images, None)
    else:
        cache = KVCache(model.config.backbone, grid_hw=model.backbone.grid_hw(images.shape[-2:]), window=None)
        steps = [outputs_of(model, images[:, t : t + 1], cache) for t in range(images.shape[1])]
        found = {name: torch.cat([step[name] for step in steps], dim=1) for name in steps[0]}
    expected = {k.split(".")[-1]: v for k, v in reference.items() if k.startswith(f"{way}.{kind}.")}
    assert len(expected) >= (6 if way == "clip" else 2)
    for name, value in expected.items():
        assert_same(f"{way}.{kind}.{name}", found[name], value)


@needs_official
def test_the_official_layout_of_positions_is_what_matters(monkeypatch):
    """Read with DINOv3's layout, the same weights give other numbers: the check above would notice."""
    model = OmniStreamModel.from_pretrained(OFFICIAL)
    assert model.config.backbone.rope_layout == "official"
    reference = load_file(OFFICIAL / "io.safetensors")
    object.__setattr__(model.backbone.config, "rope_layout", "paired")
    found = outputs_of(model, reference["pixel_values"], None)
    assert (found["last"] - reference["clip.cam.last"]).abs().max() > 1e-2


@pytest.fixture(scope="module")
def dinov3(tmp_path_factory):
    """A random DINOv3 ViT with weights so large that attention is far from uniform, and its folder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.DINOv3ViTConfig(
        hidden_size=64,
        intermediate_size=150,
        num_hidden_layers=3,
        num_attention_heads=2,
        patch_size=8,
        num_register_tokens=3,
        query_bias=True,
        value_bias=True,
        layerscale_value=0.7,
        attn_implementation="eager",
    )
    model = transformers.DINOv3ViTModel(config).eval()
    for name, parameter in model.named_parameters():
        std = 0.5 if "q_proj.weight" in name or "k_proj.weight" in name else 0.2
        torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=std)
    folder = tmp_path_factory.mktemp("dinov3")
    model.save_pretrained(folder)
    return model, folder


def test_dinov3_of_transformers(dinov3, assert_same):
    theirs, folder = dinov3
    ours = OmniStreamModel.from_pretrained(folder)
    torch.manual_seed(1)
    images = torch.randn(2, 3, 40, 72)
    with torch.inference_mode():
        reference = theirs(images, output_hidden_states=True, output_attentions=True)
        output = ours.backbone(images[:, None])
    sharpest = torch.stack([a.amax(-1) for a in reference.attentions]).mean()
    assert sharpest > 0.3, f"attention is too uniform ({sharpest:.2f}) to show a wrong position"
    tokens = reference.last_hidden_state
    assert_same("cls", output.cls_BTD[:, 0], tokens[:, 0])
    assert_same("registers", output.registers_BTRD[:, 0], tokens[:, 1:4])
    assert_same("patches", output.patches_BTND[:, 0], tokens[:, 4:])
    for level, features in zip(ours.config.backbone.levels, output.levels_BTND, strict=True):
        hidden = reference.hidden_states[level + 1]
        if level < 2:  # the last of their hidden states may already be normalised
            assert_same(f"level {level}", features[:, 0], hidden[:, 4:])


def test_dinov3_becomes_a_streaming_model(dinov3):
    """Time and CAM are added, every weight of DINOv3 is kept."""
    config, tensors = read_checkpoint(dinov3[1])
    config, more = with_time(config, tensors)
    assert config.backbone.rope_time and config.backbone.camera_token
    model = OmniStreamModel(config)
    model.load_state_dict(more, strict=True)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in tensors.items())
