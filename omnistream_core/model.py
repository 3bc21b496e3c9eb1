"""Backbone and geometry heads as one stateless module. Shape letters: B streams, T frames, N patches, H W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from omnistream_core.backbone import Backbone
from omnistream_core.cache import KVCache
from omnistream_core.checkpoint import load_strictly, read_checkpoint, resolve, write_checkpoint
from omnistream_core.config import ModelConfig
from omnistream_core.heads.camera import CameraHead
from omnistream_core.heads.dense import DualDPT
from omnistream_core.types import BackboneOutput, GeometryOutput, ModelOutput


class GeometryHeads(nn.Module):
    """Depth, confidence, rays and camera from a ``BackboneOutput``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.heads is None:
            raise ValueError("a configuration without heads builds no geometry heads")
        self.dense = DualDPT(config.backbone.width, config.backbone.patch_px, config.heads)
        self.camera = CameraHead(config.backbone.width, config.heads)

    def forward(self, features: BackboneOutput) -> GeometryOutput:
        depth, confidence, rays = self.dense(features)
        quaternion, translation, fov = self.camera(features)
        return GeometryOutput(
            depth_m_BTHW=depth,
            confidence_BTHW=confidence,
            rays_BTHW6=rays,
            quaternion_BT4=quaternion,
            translation_m_BT3=translation,
            fov_xy_rad_BT2=fov,
        )

    def lay_out_for_streaming(self) -> None:
        """Weights in channels_last: patch features lie so already, and no convolution need turn them around."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def init_weights(self) -> None:
        """First values: Kaiming for convolutions, 0.02 for linear layers, small outputs, no bias."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
            if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
                nn.init.zeros_(bias)
        for branch in (self.dense.depth, self.dense.rays):
            nn.init.trunc_normal_(cast(nn.Conv2d, branch.head[-1]).weight, std=0.02)


class OmniStreamModel(nn.Module):
    """``forward`` is the same for training, prefill and one live frame; see ``Backbone.forward``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone)
        self.heads = None if config.heads is None else GeometryHeads(config)

    def forward(
        self,
        images_BT3HW: Tensor,
        cache: KVCache | None = None,
        *,
        rows: Sequence[int] | None = None,
        visible_TT: Tensor | None = None,
        frame_index_T: Tensor | None = None,
    ) -> ModelOutput:
        features = self.backbone(images_BT3HW, cache, rows=rows, visible_TT=visible_TT, frame_index_T=frame_index_T)
        return ModelOutput(features=features, geometry=None if self.heads is None else self.heads(features))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        camera_token: bool = True,
    ) -> OmniStreamModel:
        """A model in evaluation mode from a bundled name, a folder or a hub id; strict; see ``read_checkpoint``.

        Raises:
            CheckpointError: files missing, broken, pickled, or not of the model's shape.
        """
        folder = resolve(name, revision=revision)
        config, tensors = read_checkpoint(folder, camera_token=camera_token)
        with torch.device("meta"):
            model = cls(config)
        typed = {key: value.to(device=device, dtype=dtype) for key, value in tensors.items()}
        load_strictly(model, typed, folder, assign=True)  # not to_empty: from meta that imports all of sympy
        return model.eval()

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, shard_bytes: int | None = None
    ) -> None:
        """Write ``config.json`` and ``model.safetensors``, the weights as they are or in ``dtype``; in several files
        where they need more than ``shard_bytes``."""
        tensors = {k: v if dtype is None else v.to(dtype) for k, v in self.state_dict().items()}
        write_checkpoint(Path(folder), self.config, tensors, shard_bytes=shard_bytes)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, dtype: torch.dtype | None = None) -> str:
        """Save and upload to the Hugging Face hub as ``repo_id``, made where it is missing; returns its address."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Give every parameter its first value."""
        self.backbone.init_weights()
        if self.heads is not None:
            self.heads.init_weights()


def build_model(config: ModelConfig, *, device: torch.device | str = "cpu") -> OmniStreamModel:
    """A model with fresh random weights, made on the meta device and filled once."""
    with torch.device("meta"):
        model = OmniStreamModel(config)
    model.to_empty(device=device)
    model.init_weights()
    return model
