"""A larger model that computes what a smaller one does, to go on training from there.

Source: Net2Net (Chen, Goodfellow and Shlens, ICLR 2016): wider by copies of channels whose outgoing weights share what
one had, deeper by blocks that add nothing yet (LayerScale 0). The shares are drawn, so that copies learn apart.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from omnistream_core.config import ModelConfig
from omnistream_core.errors import ConfigError
from omnistream_core.heads.language import LanguageHead
from omnistream_core.model import OmniStreamModel, build_model

WEIGHTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


@torch.no_grad()
def grow(model: OmniStreamModel, config: ModelConfig, *, seed: int = 0) -> OmniStreamModel:
    """A model of ``config`` with the outputs of ``model`` (to rounding).

    Channels of the residual stream keep their sizes' ratio, a whole number, and heads keep their channels, so that
    LayerNorm and attention see copies alike; other layers may grow to any size. Every level is followed by as many new
    blocks as the larger model has more, evenly.

    Raises:
        ConfigError: a model that ``config`` is no growth of.
    """
    _check(model.config, config)
    generator = torch.Generator().manual_seed(seed)
    deep = _deeper(model, config)
    grown = build_model(config)
    for name, module in grown.named_modules():
        joint = 3 if name.endswith("attn.qkv") else 1  # queries, keys and values, one after the other
        widen_module(deep.get_submodule(name), module, generator, outputs=joint)
    return grown.eval()


@torch.no_grad()
def grow_language(head: LanguageHead, backbone_width: int, *, seed: int = 0) -> LanguageHead:
    """The same words from a backbone that was grown to ``backbone_width`` channels."""
    grown = LanguageHead(backbone_width, head.config, head.tokenizer)
    grown.decoder.load_state_dict(head.decoder.state_dict())
    generator = torch.Generator().manual_seed(seed)
    for name in ("norm", "fc1", "fc2"):
        widen_module(getattr(head, name), getattr(grown, name), generator)
    return grown.eval()


def widen_module(small: nn.Module, large: nn.Module, generator: Generator, *, outputs: int = 1) -> None:
    """Give the parameters that ``large`` itself holds those of ``small``, channels repeated in turn.

    Args:
        outputs: equal parts of the first axis that are each repeated on their own.
    """
    inputs = 0 if isinstance(large, nn.ConvTranspose2d) else 1
    for name, parameter in large.named_parameters(recurse=False):
        before: Tensor = small.get_parameter(name)
        value = before
        for axis, size in enumerate(parameter.shape):
            value = _repeated(value, axis, size, outputs if axis == 0 else 1)
        if isinstance(large, WEIGHTED) and name == "weight":
            value = value * _shares(parameter.shape, inputs, before.shape[inputs], generator)
        parameter.copy_(value)


def _repeated(value: Tensor, axis: int, size: int, groups: int) -> Tensor:
    """Channels 0, 1, ... n - 1, 0, 1, ... within each of ``groups`` equal parts of the axis."""
    index = torch.arange(size // groups) % (value.shape[axis] // groups)
    return torch.cat([part.index_select(axis, index) for part in value.chunk(groups, dim=axis)], dim=axis)


def _shares(shape: torch.Size, axis: int, before: int, generator: Generator) -> Tensor:
    """What each copy of an input carries of the weight: positive, 1 in sum over the copies of a channel."""
    drawn = 0.5 + torch.rand(shape, generator=generator)
    copy_of = torch.arange(shape[axis]) % before
    sums = torch.zeros_like(drawn.narrow(axis, 0, before)).index_add_(axis, copy_of, drawn)
    return drawn / sums.index_select(axis, copy_of)


def _deeper(model: OmniStreamModel, config: ModelConfig) -> OmniStreamModel:
    """The same width; each group of blocks that ends at a level is followed by copies of its last that add nothing."""
    backbone, depth = model.config.backbone, config.backbone.depth
    before, after = (blocks // len(backbone.levels) for blocks in (backbone.depth, depth))
    deeper = replace(backbone, depth=depth, levels=config.backbone.levels)
    grown = build_model(replace(model.config, backbone=deeper))
    others = {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.blocks.")}
    grown.load_state_dict(others, strict=False)
    for number, block in enumerate(grown.backbone.blocks):
        group, place = divmod(number, after)
        origin = group * before + min(place, before - 1)
        block.load_state_dict(model.backbone.blocks[origin].state_dict())
        if place >= before:
            for scale in ("scale1", "scale2"):
                block.get_parameter(scale).zero_()
    return grown


def _check(small: ModelConfig, large: ModelConfig) -> None:
    before, after = small.backbone, large.backbone
    problems = {
        "width": after.width % before.width,
        "channels of a head": after.head_dim != before.head_dim,
        "depth": after.depth < before.depth,
        "levels": not all(_evenly(b.depth, len(before.levels)) == b.levels for b in (before, after)),
        "registers": after.registers != before.registers,
        "patch_px": after.patch_px != before.patch_px,
        "geometry heads": (small.heads is None) != (large.heads is None),
    }
    wrong = [name for name, bad in problems.items() if bad]
    if wrong:
        raise ConfigError(f"a model of {after} does not grow from one of {before}: {', '.join(wrong)}")


def _evenly(depth: int, levels: int) -> tuple[int, ...]:
    """Levels that end groups of equally many blocks."""
    return tuple((i + 1) * (depth // levels) - 1 for i in range(levels)) if levels else ()
