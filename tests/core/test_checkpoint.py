"""Checkpoints: bit-exact, strict, never unpickled; and a pinned list of what a checkpoint holds."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnistream_core import checkpoint
from omnistream_core.checkpoint import bundled_names, resolve
from omnistream_core.config import PRESETS, BackboneConfig, HeadConfig, ModelConfig, preset
from omnistream_core.errors import CheckpointError, ConfigError
from omnistream_core.model import OmniStreamModel, build_model
from omnistream_core.preprocess import normalise
from omnistream_core.pretraining.objectives import GeometryTruth, GeometryWeights, geometry_losses

KEY = "backbone.blocks.1.attn.qkv.weight"


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewrite_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rewrite_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_round_trip_is_bit_exact(model, saved):
    again = OmniStreamModel.from_pretrained(saved)
    assert again.config == model.config and not again.training
    assert list(again.state_dict()) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    images = torch.randn(1, 2, 3, 8, 12)
    with torch.inference_mode():
        first, second = model(images), again(images)
    assert torch.equal(first.geometry.depth_m_BTHW, second.geometry.depth_m_BTHW)


def test_a_file_of_half_precision_is_read_into_what_is_asked(model, tmp_path):
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert load_file(tmp_path / "model.safetensors")[KEY].dtype == torch.bfloat16
    assert model.state_dict()[KEY].dtype == torch.float32, "saving changed the model"
    loaded = OmniStreamModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.state_dict()[KEY], model.state_dict()[KEY].bfloat16().float())
    assert OmniStreamModel.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()[KEY].dtype == torch.bfloat16


def test_shards_with_an_index_are_read(model, saved):
    tensors = load_file(saved / "model.safetensors")
    names = {key: f"model-0000{1 + (key > KEY)}-of-00002.safetensors" for key in tensors}
    for name in set(names.values()):
        save_file({key: value for key, value in tensors.items() if names[key] == name}, saved / name)
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    loaded = OmniStreamModel.from_pretrained(saved)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in tensors.items())


def test_shards_are_written_small_enough_and_read_back(model, tmp_path):
    largest = max(value.nbytes for value in model.state_dict().values())
    model.save_pretrained(tmp_path, shard_bytes=2 * largest)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1 and not (tmp_path / "model.safetensors").exists()
    assert all(sum(v.nbytes for v in load_file(shard).values()) <= 2 * largest for shard in shards)
    loaded = OmniStreamModel.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), rf"'{KEY}' \(144, 48\) is missing"),
        (lambda t: t.update(stray=torch.zeros(2, 3)), r"'stray' \(2, 3\) is not part of the model"),
        (lambda t: t.update({KEY: torch.zeros(48, 144)}), rf"'{KEY}' is \(48, 144\), the model's is \(144, 48\)"),
    ],
)
def test_missing_extra_and_misshapen_tensors_are_named(saved, change, message):
    rewrite_tensors(saved, change)
    with pytest.raises(CheckpointError, match=message):
        OmniStreamModel.from_pretrained(saved)


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickles_are_refused_and_never_opened(saved, tmp_path, name):
    fired = tmp_path / "fired"
    (saved / name).write_bytes(pickle.dumps(Bomb(fired)))
    OmniStreamModel.from_pretrained(saved)  # beside the real weights it is not looked at
    with pytest.raises(CheckpointError, match=r"refused"):
        OmniStreamModel.from_pretrained(saved / name)
    (saved / "model.safetensors").rename(saved / "elsewhere")
    with pytest.raises(CheckpointError, match=rf"{name} is a pickle and is refused"):
        OmniStreamModel.from_pretrained(saved)
    (saved / "model.safetensors").write_bytes(pickle.dumps(Bomb(fired)))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        OmniStreamModel.from_pretrained(saved)
    assert not fired.exists()
    pickle.loads((saved / name).read_bytes())
    assert fired.exists(), "the bomb is a dud, the test shows nothing"


@pytest.mark.parametrize("shard", ["../other/model.safetensors", "model.bin", "/model.safetensors"])
def test_an_index_names_safetensors_beside_it_and_nothing_else(saved, shard):
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match=r"shard .*beside it"):
        OmniStreamModel.from_pretrained(saved)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_broken_index_is_named(saved, text):
    (saved / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json: not an index"):
        OmniStreamModel.from_pretrained(saved)


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.999])
def test_a_truncated_file_is_named(saved, keep):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if keep >= 1 else int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole"):
        OmniStreamModel.from_pretrained(saved)


def test_unknown_kinds_and_broken_settings_are_named(saved):
    rewrite_config(saved, model_type="bert")
    with pytest.raises(CheckpointError, match="'bert' is not known"):
        OmniStreamModel.from_pretrained(saved)
    for kind, key in (("vfm", "video_aggregator_layer|register_token"), ("dinov3_vit", "hidden_size")):
        rewrite_config(saved, model_type=kind)
        with pytest.raises(CheckpointError, match=key):
            OmniStreamModel.from_pretrained(saved)
    rewrite_config(saved, model_type="omnistream", surprise=1)
    with pytest.raises(ConfigError, match="surprise"):
        OmniStreamModel.from_pretrained(saved)
    for text in ("not json", "[1]"):
        (saved / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            OmniStreamModel.from_pretrained(saved)
    (saved / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        OmniStreamModel.from_pretrained(saved)


def test_names(saved, monkeypatch, tmp_path):
    assert resolve(saved) == resolve(saved / "model.safetensors") == saved
    (saved / "other.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"other\.safetensors: a checkpoint is a folder"):
        resolve(saved / "other.safetensors")
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path)
    assert bundled_names() == ["model"] and resolve("model") == saved
    for wrong in ("modle", "./nowhere/at-all", "a/b/c"):
        with pytest.raises(CheckpointError, match=r"bundled are \['model'\]"):
            resolve(wrong)


def test_every_bundled_checkpoint_loads():
    for name in bundled_names():
        model = OmniStreamModel.from_pretrained(name)
        assert all(p.isfinite().all() for p in model.parameters()), name


def test_push_to_hub_uploads_what_can_be_read_again(model, monkeypatch):
    calls = {}

    class FakeApi:
        def create_repo(self, repo_id, **options):
            calls["create"] = (repo_id, options)

        def upload_folder(self, *, repo_id, folder_path):
            calls["upload"] = repo_id
            calls["files"] = sorted(p.name for p in Path(folder_path).iterdir())
            calls["key"] = OmniStreamModel.from_pretrained(folder_path).state_dict()[KEY]
            return "https://hub/" + repo_id

    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    assert model.push_to_hub("me/model", private=True) == "https://hub/me/model"
    assert calls["create"] == ("me/model", {"private": True, "exist_ok": True})
    assert calls["files"] == ["config.json", "model.safetensors"] and calls["upload"] == "me/model"
    assert torch.equal(calls["key"], model.state_dict()[KEY])


# ---- what a model holds ----

BLOCK = [
    *("attn.proj.bias", "attn.proj.weight", "attn.qkv.bias", "attn.qkv.weight"),
    *("mlp.fc1.bias", "mlp.fc1.weight", "mlp.fc2.bias", "mlp.fc2.weight"),
    *("norm1.bias", "norm1.weight", "norm2.bias", "norm2.weight", "scale1", "scale2"),
]
BACKBONE = [
    *("aspect_embed.bias", "aspect_embed.weight", "cam_token", "cls_token", "mask_token", "norm.bias", "norm.weight"),
    *("patch_embed.bias", "patch_embed.weight", "register_tokens"),
]
ALL_KEYS_OF_TINY = "876b2725d2ac"  # the start of the sha256 of all names, in order of the alphabet


def meta(name: str) -> OmniStreamModel:
    with torch.device("meta"):
        return OmniStreamModel(preset(name))


def test_names_of_the_tensors_are_pinned():
    keys = sorted(meta("tiny").state_dict())
    expected = BACKBONE + [f"blocks.{n}.{name}" for n in range(8) for name in BLOCK]
    assert [k.removeprefix("backbone.") for k in keys if k.startswith("backbone.")] == sorted(expected)
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    assert digest[:12] == ALL_KEYS_OF_TINY, "the names of heads.* have changed: checkpoints of before cannot be read"


def test_sizes_of_the_presets():
    millions = {name: sum(p.numel() for p in meta(name).parameters()) / 1e6 for name in PRESETS}
    assert list(millions) == ["tiny", "small", "base", "large"]
    assert millions["tiny"] <= 6
    assert 290 < sum(p.numel() for p in meta("large").backbone.parameters()) / 1e6 < 310  # that of a ViT-L
    assert list(millions.values()) == sorted(millions.values())


@pytest.mark.parametrize("heads", [HeadConfig(features=8, ray_features=8, camera_hidden=16), None])
def test_first_values_reach_every_parameter(heads):
    backbone = BackboneConfig(width=48, depth=4, heads=2, levels=(0, 1, 2, 3), patch_px=4)
    with torch.device("meta"):
        model = OmniStreamModel(ModelConfig(backbone=backbone, heads=heads))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(float("nan"))
    model.init_weights()
    assert [name for name, value in model.state_dict().items() if not value.isfinite().all()] == []


def geometry_loss(model: OmniStreamModel, images: torch.Tensor, device: str) -> torch.Tensor:
    b, t, _, h, w = images.shape
    truth = GeometryTruth(
        depth_m_BTHW=1 + torch.rand(b, t, h, w, device=device),
        world_from_camera_BT44=torch.eye(4, device=device).expand(b, t, 4, 4),
        intrinsics_B33=torch.tensor([[50.0, 0, w / 3], [0, 60.0, h / 2], [0, 0, 1]], device=device).expand(b, 3, 3),
    )
    return sum(geometry_losses(model(images).geometry, truth, GeometryWeights()).values())


@pytest.mark.parametrize("name", PRESETS)
def test_every_parameter_gets_a_gradient(name):
    """The larger ones without numbers, on the meta device: there a gradient is there or is not."""
    device = "cpu" if name == "tiny" else "meta"
    torch.manual_seed(0)
    model = (build_model(preset(name)) if name == "tiny" else meta(name)).train()
    images = torch.randn(1, 2, 3, 64, 96, device=device)
    geometry_loss(model, images, device).backward()
    without = [k for k, p in model.named_parameters() if p.grad is None or (name == "tiny" and not p.grad.any())]
    assert without == ["backbone.mask_token"]


def test_the_mask_token_gets_a_gradient_from_masked_patches(make_backbone):
    backbone = make_backbone()
    images, mask = torch.randn(1, 1, 3, 8, 8), torch.tensor([[[True, False, False, True]]])
    backbone(images, mask_BTN=mask).patches_BTND.sum().backward()
    assert backbone.mask_token.grad.any()
    other = images.clone()
    other[..., :4, :4] += 1  # under the mask, an image does not matter
    with torch.no_grad():
        seen = [backbone(x, mask_BTN=mask).patches_BTND for x in (images, other)]
        unmasked = [backbone(x).patches_BTND for x in (images, other)]
    assert torch.equal(*seen) and not torch.equal(*unmasked)


def test_hidden_width_of_odd_ratios(make_backbone):
    """49 / 48 times 48 is 49, although the product of the two floats is not always whole."""
    for hidden in range(1, 200):
        config = BackboneConfig(width=48, depth=1, heads=2, levels=(), mlp_ratio=hidden / 48)
        with torch.device("meta"):
            model = OmniStreamModel(ModelConfig(backbone=config, heads=None))
        assert model.backbone.blocks[0].mlp.fc1.out_features == hidden


def test_normalise_is_the_models_own():
    config = preset("tiny").preprocess
    grey = normalise(config, torch.full((3, 2, 2), 255.0))
    assert torch.allclose(grey[:, 0, 0], (1 - torch.tensor(config.mean)) / torch.tensor(config.std))
