"""Checkpoints on disk and on the hub: safetensors and JSON, strict, nothing pickled.

A checkpoint is a folder with ``config.json`` and ``model.safetensors`` (or shards with an index). Three layouts are
read: our own, the official OmniStream release and DINOv3 as `transformers` saves it; the last two are backbones without
heads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from omnistream_core.config import BackboneConfig, ModelConfig, PreprocessConfig
from omnistream_core.errors import CheckpointError

BUNDLED = Path(__file__).parent / "checkpoints"
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
SHARD_PATTERN = "model{suffix}.safetensors"
MODEL_TYPE = "omnistream"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def resolve(name: str | Path, *, revision: str | None = None) -> Path:
    """Folder of a checkpoint: a bundled name (``omnistream-tiny``), a folder, or a hub id (downloaded, or cached).

    Raises:
        CheckpointError: nothing of that name; a pickle.
    """
    path = Path(name)
    if path.suffix in PICKLES:
        raise CheckpointError(f"{path}: pickled checkpoints are refused, they can run code; convert it to safetensors")
    if path.is_file():
        if path.name != WEIGHTS_NAME:
            raise CheckpointError(f"{path}: a checkpoint is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}")
        return path.parent
    if path.is_dir():
        return path
    if (BUNDLED / str(name)).is_dir():
        return BUNDLED / str(name)
    if str(name).count("/") != 1 or str(name).startswith((".", "/")):
        raise CheckpointError(
            f"no checkpoint {str(name)!r}: bundled are {bundled_names()}, or give a folder or a hub id"
        )
    return _download(str(name), revision)


def bundled_names() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(p.name for p in BUNDLED.glob("*") if (p / CONFIG_NAME).exists())


def read_checkpoint(folder: Path, *, camera_token: bool = True) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights, keys and shapes in our layout.

    Args:
        camera_token: whether to keep the official release's CAM token; our own checkpoints say themselves.

    Raises:
        CheckpointError: files missing, broken or pickled; a layout that is not known.
        ConfigError: a configuration with a value out of range.
    """
    values, tensors = _read_config(folder), _read_tensors(folder)
    try:
        return _in_our_layout(values, tensors, folder, camera_token)
    except KeyError as error:
        raise CheckpointError(f"{folder}: {error} is missing from its configuration or tensors") from error


def _in_our_layout(
    values: Mapping[str, Any], tensors: dict[str, Tensor], folder: Path, camera_token: bool
) -> tuple[ModelConfig, dict[str, Tensor]]:
    kind = values.get("model_type")
    if kind == MODEL_TYPE:
        return ModelConfig.from_dict(dict(values)), tensors
    if kind == "vfm":
        return official_config(values, tensors, camera_token), map_keys(
            tensors, official_key(camera_token), official_value
        )
    if kind == "dinov3_vit":
        return dinov3_config(values), dinov3_tensors(values, tensors)
    raise CheckpointError(
        f"{folder}: model_type {kind!r} is not known; 'omnistream', 'vfm' (official) and 'dinov3_vit' are"
    )


def write_checkpoint(
    folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], *, shard_bytes: int | None = None
) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, made where it is missing.

    Args:
        shard_bytes: where the weights need more, they become several files of at most so many bytes, with an index, as
            `transformers` writes them; None writes one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_text(json.dumps({"model_type": MODEL_TYPE} | config.to_dict(), indent=1) + "\n")
    kept = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    if shard_bytes is None:
        save_file(kept, folder / WEIGHTS_NAME, {"format": "pt"})
        return
    from huggingface_hub import split_torch_state_dict_into_shards

    split = split_torch_state_dict_into_shards(kept, max_shard_size=shard_bytes, filename_pattern=SHARD_PATTERN)
    for name, keys in split.filename_to_tensors.items():
        save_file({k: kept[k] for k in keys}, folder / name, {"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / (WEIGHTS_NAME + ".index.json")).write_text(json.dumps(index, indent=1) + "\n")


def load_strictly(
    module: torch.nn.Module, tensors: Mapping[str, Tensor], origin: str | Path, *, assign: bool = False
) -> None:
    """Copy ``tensors`` into ``module``, or make them its parameters.

    Raises:
        CheckpointError: the first key that is missing, too many, or of another shape, with both shapes.
    """
    expected = module.state_dict()
    for key, value in expected.items():
        if key not in tensors:
            raise CheckpointError(f"{origin}: tensor {key!r} {tuple(value.shape)} is missing")
        if tensors[key].shape != value.shape:
            raise CheckpointError(
                f"{origin}: tensor {key!r} is {tuple(tensors[key].shape)}, the model's is {tuple(value.shape)}"
            )
    for key, value in tensors.items():
        if key not in expected:
            raise CheckpointError(f"{origin}: tensor {key!r} {tuple(value.shape)} is not part of the model")
    module.load_state_dict(tensors, strict=True, assign=assign)


def map_keys(
    tensors: Mapping[str, Tensor], rename: Callable[[str], str | None], reshape: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Foreign tensors under our names; ``rename`` gives None for those that are dropped."""
    named = ((rename(key), value) for key, value in tensors.items())
    return {key: reshape(key, value) for key, value in named if key is not None}


# --- the official release -------------------------------------------------------------------------------------------

OFFICIAL_NAMES = {
    "cls_token": "cls_token",
    "mask_token": "mask_token",
    "camera_token": "cam_token",
    "register_token": "register_tokens",
    "ar_embedder": "aspect_embed",
    "patch_embed.proj": "patch_embed",
    "post_layernorm": "norm",
}


def official_config(values: Mapping[str, Any], tensors: Mapping[str, Tensor], camera_token: bool) -> ModelConfig:
    """Our configuration of the official release's."""
    if values.get("ffn_layer", "mlp") != "mlp" or values.get("upcycle_to_moe", False):
        raise CheckpointError("official checkpoints with another MLP than 'mlp' are not supported")
    if "patch_embed.register_token" not in tensors:
        raise CheckpointError("official checkpoint: tensor 'patch_embed.register_token' is missing")
    depth = values["video_aggregator_layer"]
    backbone = BackboneConfig(
        width=values["hidden_size"],
        depth=depth,
        heads=values["num_attention_heads"],
        levels=_default_levels(depth),
        patch_px=values["patch_size"],
        mlp_ratio=values["mlp_ratio"],
        registers=tensors["patch_embed.register_token"].shape[2],
        camera_token=camera_token,
        rope_layout="official",
        layer_scale_init=values["init_values"],
    )
    return ModelConfig(backbone=backbone, heads=None, preprocess=PreprocessConfig(area_px=values["image_size"] ** 2))


def official_key(camera_token: bool) -> Callable[[str], str | None]:
    """Renames a key of the official release."""

    def rename(key: str) -> str | None:
        key = key.removeprefix("patch_embed.")
        if not camera_token and key.startswith(("camera_token", "ar_embedder")):
            return None
        for theirs, ours in OFFICIAL_NAMES.items():
            if key == theirs or key.startswith(theirs + "."):
                return "backbone." + ours + key.removeprefix(theirs)
        return "backbone." + key.replace("ls1.gamma", "scale1").replace("ls2.gamma", "scale2")

    return rename


def official_value(key: str, value: Tensor) -> Tensor:
    """Takes off the axes of length 1 that the official tokens carry."""
    if key in ("backbone.cls_token", "backbone.mask_token"):
        return value.flatten()
    if key == "backbone.cam_token":
        return value[0, :, 0]
    return value[0] if key == "backbone.register_tokens" else value


# --- DINOv3 ---------------------------------------------------------------------------------------------------------

_DINOV3 = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.patch_embeddings": "patch_embed",
    "norm": "norm",
}
_DINOV3_BLOCK = {
    "attention.o_proj": "attn.proj",
    "layer_scale1.lambda1": "scale1",
    "layer_scale2.lambda1": "scale2",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
}


def dinov3_config(values: Mapping[str, Any]) -> ModelConfig:
    """Our configuration of a `transformers` DINOv3 ViT, without time and camera token: gives DINOv3's own numbers."""
    if values.get("use_gated_mlp", False):
        raise CheckpointError("DINOv3 models with a gated MLP (ViT-S+, ViT-H+, ViT-7B) are not supported")
    if values.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"DINOv3 models with hidden_act {values['hidden_act']!r} are not supported, 'gelu' is")
    backbone = BackboneConfig(
        width=values["hidden_size"],
        depth=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        levels=_default_levels(values["num_hidden_layers"]),
        patch_px=values["patch_size"],
        mlp_ratio=values["intermediate_size"] / values["hidden_size"],
        registers=values["num_register_tokens"],
        camera_token=False,
        rope_base=values.get("rope_theta") or (values.get("rope_parameters") or {}).get("rope_theta", 100.0),
        rope_time=False,
        layer_norm_eps=values["layer_norm_eps"],
        layer_scale_init=values["layerscale_value"],
    )
    return ModelConfig(backbone=backbone, heads=None)


def dinov3_tensors(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors of a `transformers` DINOv3 ViT: query, key and value joined; a missing bias is zero; equal rows."""
    out = map_keys(tensors, _dinov3_key, lambda _, v: v)
    for name in ("cls_token", "mask_token"):
        out["backbone." + name] = out["backbone." + name].flatten()
    out["backbone.register_tokens"] = out["backbone.register_tokens"].expand(2, -1, -1).clone()
    width = values["hidden_size"]
    for number in range(values["num_hidden_layers"]):
        prefix = f"backbone.blocks.{number}.attn."
        parts = [(out.pop(f"{prefix}{p}_proj.weight"), out.pop(f"{prefix}{p}_proj.bias", None)) for p in "qkv"]
        out[prefix + "qkv.weight"] = torch.cat([weight for weight, _ in parts])
        zero = parts[0][0].new_zeros(width)
        out[prefix + "qkv.bias"] = torch.cat([zero if bias is None else bias for _, bias in parts])
        for bias in (f"{prefix}proj.bias", f"backbone.blocks.{number}.mlp.fc2.bias"):
            out.setdefault(bias, zero.clone())
    return out


def with_time(config: ModelConfig, tensors: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A DINOv3 checkpoint as the start of a streaming backbone: time switched on, CAM and its aspect embedding added.

    CAM starts as CLS does in both rows; the aspect embedding starts at zero.
    """
    backbone = dataclasses.replace(config.backbone, rope_time=True, camera_token=True, aspect_embedding=True)
    out = dict(tensors)
    cls_D = out["backbone.cls_token"]
    out["backbone.cam_token"] = cls_D.expand(2, -1).clone()
    out["backbone.aspect_embed.weight"] = cls_D.new_zeros(len(cls_D), 1)
    out["backbone.aspect_embed.bias"] = cls_D.new_zeros(len(cls_D))
    return dataclasses.replace(config, backbone=backbone), out


def _dinov3_key(key: str) -> str | None:
    for theirs, ours in _DINOV3.items():
        if key == theirs or key.startswith(theirs + "."):
            return "backbone." + ours + key.removeprefix(theirs)
    key = key.removeprefix("model.")
    if not key.startswith("layer."):
        return None if key.startswith("rope_embeddings.") else key
    _, number, rest = key.split(".", 2)
    for theirs, ours in _DINOV3_BLOCK.items():
        rest = rest.replace(theirs, ours)
    return f"backbone.blocks.{number}.{rest.replace('attention.', 'attn.')}"


# --- files ----------------------------------------------------------------------------------------------------------


def _default_levels(depth: int) -> tuple[int, ...]:
    return tuple(sorted({max(0, round(depth * (i + 1) / 4) - 1) for i in range(4)}))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.exists():
        raise CheckpointError(f"{folder}: there is no {CONFIG_NAME}")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: a JSON object is needed, not {type(values).__name__}")
    return values


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / (WEIGHTS_NAME + ".index.json")
    names = [WEIGHTS_NAME]
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: not an index of shards: {error!r}") from error
        for name in names:
            if Path(name).name != name or Path(name).suffix != ".safetensors":
                raise CheckpointError(f"{index}: shard {name!r}: names of .safetensors files beside it are needed")
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= _load_safetensors(folder / name)
    return tensors


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        pickles = sorted(p.name for p in path.parent.iterdir() if p.suffix in PICKLES)
        hint = f"; {pickles[0]} is a pickle and is refused, convert it to safetensors" if pickles else ""
        raise CheckpointError(f"{path.parent}: there is no {path.name}{hint}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"no checkpoint {name!r}: not bundled, no folder, and the hub says: {reason}") from error


def weights_hash(module: torch.nn.Module) -> str:
    """A short name of the exact weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
