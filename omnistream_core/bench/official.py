"""A checkout of the official OmniStream release as a stream with our weights, to be measured beside ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnistream_core.backbone import Backbone
from omnistream_core.checkpoint import OFFICIAL_NAMES
from omnistream_core.errors import OmniStreamError


class OfficialStream:
    """The release's backbone, streaming the way it can: frame by frame through the cache that it hands back.

    Args:
        checkout: folder of the release, with its ``model`` package.
        backbone: weights and size; it must use the release's layout of angles, or the numbers differ.
    """

    def __init__(self, checkout: Path, backbone: Backbone) -> None:
        config = backbone.config
        self.backbone, parameter = backbone, next(backbone.parameters())
        self.model = _module(checkout).DinoVideoTransformer(
            patch_size=config.patch_px,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            num_register_tokens=config.registers,
        )
        self.model.load_state_dict(official_tensors(backbone.state_dict()), strict=True)
        self.model.eval().to(parameter.device, parameter.dtype)
        self.frames = 0
        self.past: tuple[tuple[Tensor, Tensor], ...] | None = None

    @torch.inference_mode()
    def step(self, image_1T3HW: Tensor, *, keep: bool) -> Tensor:
        """Patch features (1, N, D) of the next frame; it is remembered if ``keep``."""
        height, width = image_1T3HW.shape[-2:]
        *_, patches_1TND, _, _, past, frames = self.model(
            image_1T3HW[:, 0],
            tuple(image_1T3HW.shape),
            use_cache=True,
            past_key_values=self.past,
            logical_frame_idx=self.frames,
            add_camera_token=True,
            aspect_ratio=torch.tensor([height / width], device=image_1T3HW.device),
        )
        if keep:
            self.past, self.frames = past, frames
        return patches_1TND[:, 0]

    def pretend(self, frames: int, grid_hw: tuple[int, int]) -> None:
        """A past of so many frames, of random keys and values: as slow as a real one, and there at once."""
        p, first = self.backbone.config.tokens_per_frame(grid_hw), next(self.backbone.parameters())
        shape = (1, self.backbone.config.heads, frames * p, self.backbone.config.head_dim)
        self.past = tuple(
            (torch.randn(shape).to(first), torch.randn(shape).to(first)) for _ in range(self.backbone.config.depth)
        )
        self.frames = frames


def official_tensors(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's tensors under the release's names and shapes: the inverse of reading its checkpoint."""
    theirs = {our: their for their, our in OFFICIAL_NAMES.items()}
    shapes = {"cls_token": (1, 1, -1), "mask_token": (1, -1)}
    out = {}
    for key, value in ours.items():
        head, _, rest = key.partition(".")
        name = theirs.get(head, head) + ("." + rest if rest else "")
        if key in shapes:
            value = value.view(shapes[key])
        elif key == "cam_token":
            value = value[None, :, None]
        elif key == "register_tokens":
            value = value[None]
        out[name.replace("scale1", "ls1.gamma").replace("scale2", "ls2.gamma")] = value
    return out


def _module(checkout: Path) -> Any:
    """The release's module; its package is called ``model``, so its folder must come first while it is imported."""
    if not (checkout / "model" / "modeling_omnistream.py").exists():
        raise OmniStreamError(
            f"{checkout}: no checkout of the official release (model/modeling_omnistream.py is missing)"
        )
    sys.path.insert(0, str(checkout))
    try:
        from importlib import import_module

        return import_module("model.modeling_omnistream")
    except ImportError as error:
        raise OmniStreamError(f"{checkout}: the official release cannot be imported: {error}") from error
    finally:
        sys.path.remove(str(checkout))
