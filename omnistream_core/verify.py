"""Replays recorded inputs through a checkpoint and compares every recorded tensor.

The recording is a safetensors file: ``pixel_values`` (B, T, 3, H, W), and of a model without (``nocam``) and with
(``cam``) its camera token ``clip.{nocam,cam}.{last,cls,reg,camera,blockN}``, one pass over the clip, and
``stream.{nocam,cam}.{last,cls,camera}``, the same frames one at a time.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from omnistream_core.cache import KVCache
from omnistream_core.errors import CheckpointError
from omnistream_core.model import OmniStreamModel
from omnistream_core.types import BackboneOutput


def verify(checkpoint: str | Path, recording: Path) -> dict[str, float]:
    """Largest absolute difference of every recorded tensor, by its name, in float32 on the CPU.

    Raises:
        CheckpointError: a file that cannot be read, a recording without inputs or with a tensor the model does not
        have.
    """
    try:
        recorded = load_file(recording)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{recording}: not a readable safetensors file: {error}") from error
    if "pixel_values" not in recorded:
        raise CheckpointError(f"{recording}: there is no tensor 'pixel_values'; it holds {sorted(recorded)}")
    images = recorded.pop("pixel_values")
    differences: dict[str, float] = {}
    for camera in ("nocam", "cam"):
        wanted = {k: v for k, v in recorded.items() if k.split(".")[1] == camera}
        if wanted:
            model = OmniStreamModel.from_pretrained(checkpoint, camera_token=camera == "cam")
            computed = compute(model, images, camera)
            differences |= {name: _difference(name, value, computed) for name, value in wanted.items()}
    return differences


@torch.inference_mode()
def compute(model: OmniStreamModel, images_BT3HW: Tensor, camera: str) -> dict[str, Tensor]:
    """Every tensor that a recording can hold, by name."""
    frames = images_BT3HW.shape[1]
    blocks: dict[str, Tensor] = {}
    hooks = [
        block.register_forward_hook(
            lambda _, __, out, n=n: blocks.update({f"block{n}": out.unflatten(1, (frames, -1)).clone()})
        )
        for n, block in enumerate(model.backbone.blocks)
    ]
    clip = _named(model.backbone(images_BT3HW)) | dict(blocks)
    for hook in hooks:
        hook.remove()
    cache = KVCache(
        model.config.backbone,
        grid_hw=model.backbone.grid_hw((images_BT3HW.shape[-2], images_BT3HW.shape[-1])),
        streams=len(images_BT3HW),
        window=None,
    )
    steps = [_named(model.backbone(image, cache)) for image in images_BT3HW.split(1, dim=1)]
    stream = {name: torch.cat([step[name] for step in steps], dim=1) for name in steps[0]}
    return {f"clip.{camera}.{k}": v for k, v in clip.items()} | {f"stream.{camera}.{k}": v for k, v in stream.items()}


def _named(output: BackboneOutput) -> dict[str, Tensor]:
    named = {"last": output.patches_BTND, "cls": output.cls_BTD, "reg": output.registers_BTRD}
    return named if output.cam_BTD is None else named | {"camera": output.cam_BTD}


def _difference(name: str, expected: Tensor, computed: dict[str, Tensor]) -> float:
    if name not in computed:
        raise CheckpointError(f"recorded tensor {name!r} is not one of the model's: {sorted(computed)}")
    if computed[name].shape != expected.shape:
        raise CheckpointError(
            f"recorded tensor {name!r} is {tuple(expected.shape)}, the model's is {tuple(computed[name].shape)}"
        )
    return float((computed[name] - expected).abs().max())
