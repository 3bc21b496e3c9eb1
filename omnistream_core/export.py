"""The streaming step as one function of tensors, its memory an explicit state, for runtimes other than torch.

Inputs are an image, the number of the frame and the keys and values of every block; outputs are what the model says and
the new keys and values. Shapes are fixed: one image size, one window. Nothing depends on values, so it exports whole.

Shape letters: H W pixels, P tokens of a frame, F slots of the memory, h heads, D channels of a head, C width, N
patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnistream_core.errors import OmniStreamError
from omnistream_core.layers.block import Block
from omnistream_core.layers.rope3d import LiveRope, rotate
from omnistream_core.model import OmniStreamModel
from omnistream_core.preprocess import normalise

FORMATS = ("onnx", "aoti")
FEATURES = ("patches_ND", "cls_D")
GEOMETRY = ("depth_m_HW", "confidence_HW", "rays_HW6", "quaternion_4", "translation_m_3", "fov_xy_rad_2")


class StreamStep(nn.Module):
    """One live frame: ``outputs, state = step(image, frame, state)``.

    Args:
        model: in evaluation mode, its weights are used as they are.
        image_hw: pixels; multiples of the patch.
        window, sink: of the memory, see ``StreamConfig``.
    """

    def __init__(self, model: OmniStreamModel, *, image_hw: tuple[int, int], window: int, sink: int) -> None:
        super().__init__()
        self.model, self.window, self.sink = model, window, sink
        self.grid_hw = model.backbone.grid_hw(image_hw)
        self.image_hw, self.config = image_hw, model.config.backbone
        self.tokens = self.config.tokens_per_frame(self.grid_hw)
        self.rope = LiveRope(self.config, self.grid_hw, model.backbone.cls_token.device)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs before the state."""
        return FEATURES + (GEOMETRY if self.model.heads is not None else ())

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the tensors of the state."""
        return tuple(f"{kind}_{number}" for number in range(self.config.depth) for kind in ("keys", "values"))

    def empty_state(self) -> tuple[Tensor, ...]:
        """(1, h, F, P, D) of zeros, keys and values of every block in turn; what a stream starts with."""
        shape = (1, self.config.heads, self.sink + self.window, self.tokens, self.config.head_dim)
        like = self.model.backbone.cls_token
        return tuple(torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in self.state_names)

    def forward(
        self, image_HW3: Tensor, frame_1: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs in the order of ``output_names``, and the new state.

        Args:
            image_HW3: RGB, 0 to 255, float32, at the model's size.
            frame_1: int64, frames of the stream before this one.
            state: as returned for the frame before.
        """
        backbone = self.model.backbone
        image_3HW = normalise(self.model.config.preprocess, image_HW3.permute(2, 0, 1)).to(backbone.cls_token.dtype)
        x_1PC = self._embed(image_3HW, frame_1)
        rope = self.rope(frame_1, x_1PC.dtype)
        held, visible = self._slots(frame_1)
        levels, new_state = [], []
        for number, module in enumerate(backbone.blocks):
            block = cast(Block, module)
            keys, values = state[2 * number : 2 * number + 2]
            attended, kept = self._attention(block, block.norm1(x_1PC), rope, (keys, values), (held, visible))
            x_1PC = x_1PC + block.scale1 * attended
            x_1PC = x_1PC + block.scale2 * block.mlp(block.norm2(x_1PC))
            new_state += kept
            if number in self.config.levels:
                levels.append(x_1PC[:, None, self.config.prefix_tokens :])
        return self._outputs(backbone.norm(x_1PC)[:, None], tuple(levels)), tuple(new_state)

    def _embed(self, image_3HW: Tensor, frame_1: Tensor) -> Tensor:
        """Tokens; which of the two rows of CAM and registers is a matter of the frame's number."""
        first, later = (
            self.model.backbone.embed(image_3HW[None, None], torch.full((1, 1), number)) for number in (0, 1)
        )
        return torch.where(frame_1 > 0, later, first)[:, 0]

    def _slots(self, frame_1: Tensor) -> tuple[Tensor, Tensor]:
        """Which slot is written (F, 1, 1), and which tokens may be seen (1, F * P)."""
        ring = self.sink + (frame_1 - self.sink) % self.window
        slot_1 = torch.where(frame_1 < self.sink, frame_1, ring)
        numbers_F = torch.arange(self.sink + self.window, device=frame_1.device)
        seen_F = numbers_F <= frame_1
        return (numbers_F == slot_1)[:, None, None], seen_F.repeat_interleave(self.tokens)[None]

    def _attention(
        self,
        block: Block,
        x_1PC: Tensor,
        rope: tuple[Tensor, Tensor],
        state: tuple[Tensor, Tensor],
        slots: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        heads = self.config.heads
        q, k, v = block.attn.qkv(x_1PC).view(1, self.tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, *rope), rotate(k, *rope)
        written, visible = slots
        kept = [torch.where(written, new[:, :, None], old) for new, old in zip((k, v), state, strict=True)]
        keys, values = (t.flatten(2, 3) for t in kept)
        out_1hPD = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible)
        return block.attn.proj(out_1hPD.transpose(1, 2).reshape(1, self.tokens, -1)), kept

    def _outputs(self, x_11PC: Tensor, levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features = self.model.backbone.output(x_11PC, levels, self.grid_hw)
        out = [features.patches_BTND, features.cls_BTD]
        if self.model.heads is not None:
            g = self.model.heads(features)
            out += [g.depth_m_BTHW, g.confidence_BTHW, g.rays_BTHW6]
            out += [g.quaternion_BT4, g.translation_m_BT3, g.fov_xy_rad_BT2]
        return tuple(t[0, 0] for t in out)


def export(step: StreamStep, path: Path, form: str) -> Path:
    """Write the step as ``onnx`` (one file and its weights) or ``aoti`` (an AOTInductor package for this device).

    Raises:
        OmniStreamError: another format; packages that are missing.
    """
    if form not in FORMATS:
        raise OmniStreamError(f"export to {form!r}: one of {FORMATS} is needed")
    path.parent.mkdir(parents=True, exist_ok=True)
    like = step.model.backbone.cls_token
    image = torch.zeros(*step.image_hw, 3, device=like.device)
    inputs = (image, torch.zeros(1, dtype=torch.int64, device=like.device), step.empty_state())
    with torch.no_grad():
        program = torch.export.export(step.eval(), inputs, strict=False)
        if form == "aoti":
            return Path(torch._inductor.aoti_compile_and_package(program, package_path=str(path)))
        return _write_onnx(step, program, path)


def _write_onnx(step: StreamStep, program: torch.export.ExportedProgram, path: Path) -> Path:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise OmniStreamError(f"export to ONNX needs the packages of the extra 'export': {error}") from error
    torch.onnx.export(
        program,
        (),
        str(path),
        input_names=["image_HW3", "frame_1", *step.state_names],
        output_names=[*step.output_names, *(f"new_{name}" for name in step.state_names)],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return path
