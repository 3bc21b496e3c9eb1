"""From features to actions: attentive pooling, a small transformer, and three kinds of action head.

Shape letters: B samples, N patches, Q pooled tokens of a camera, S tokens of the context, T steps of a chunk, A action
numbers, D channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lerobot.policies.common.flow_matching import euler_integrate, sample_time_beta
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from torch import Tensor, nn

from lerobot_policy_omnistream.configuration_omnistream import OmnistreamConfig

# A normalised state is held within this range: what hardly varies in the data must not drown the rest on the robot.
STATE_LIMIT = 5.0


@dataclass(frozen=True, kw_only=True, eq=False)
class OldChunk:
    """What a new chunk must go on from, for real-time chunking.

    Attributes:
        actions_BTA: the actions of the old chunk that were not carried out yet, from now on; normalised. One at least.
        delay_steps: how many of them will be carried out while the new chunk is computed; no more than there are.
        rtc: how the following ones weigh.
    """

    actions_BTA: Tensor
    delay_steps: int
    rtc: RTCProcessor


class KeypointPool(nn.Module):
    """A camera's patches to one token: where each of Q maps over the image has its middle, and nothing else.

    A learner of a hundred demonstrations that is given what is under the maps knows the demonstrations by heart; places
    alone it has to find. Spatial softmax: Finn et al., Deep Spatial Autoencoders for Visuomotor Learning, 2016.
    """

    tokens = 1
    # Of the maps: at 1, the middle of a map that covers the whole image hardly moves.
    SHARPNESS = 5.0

    def __init__(self, config: OmnistreamConfig, width: int, parts: int) -> None:
        super().__init__()
        dim, queries = config.dim_model, config.tokens_per_camera
        self.parts = parts
        self.features_to_maps = nn.Linear(width, queries)
        self.where = nn.Linear(2 * queries, dim)

    def forward(self, features_BND: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """(B, 1, D)."""
        patches_BND = scaled_parts(features_BND, self.parts)
        places_N2 = patch_places(grid_hw, patches_BND)
        maps_BQN = (self.SHARPNESS * self.features_to_maps(patches_BND)).softmax(dim=1).transpose(1, 2)
        return self.where((maps_BQN @ (2 * places_N2 - 1)).flatten(1))[:, None]


class AttentivePool(nn.Module):
    """A camera's patches to Q tokens: each has a map over the image, and tells what is under it and where that is.

    The place is the mean of the patches' places, weighed by the map, and so finer than a patch: the spatial softmax of
    Finn et al., Deep Spatial Autoencoders for Visuomotor Learning, 2016. Maps look for features and for places. Next to
    attention with keys and values of its own, this works on the features as they are: no gradient has to pass them.
    """

    def __init__(self, config: OmnistreamConfig, width: int, parts: int) -> None:
        super().__init__()
        dim, queries = config.dim_model, config.tokens_per_camera
        self.parts, self.tokens = parts, queries
        self.features_to_maps = nn.Linear(width, queries)
        self.places_to_maps = nn.Linear(dim, queries, bias=False)
        self.what = nn.Linear(width, dim)
        self.where = nn.Linear(2, dim)

    def forward(self, features_BND: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """(B, Q, D)."""
        patches_BND = scaled_parts(features_BND, self.parts)
        places_N2 = patch_places(grid_hw, patches_BND)
        code_ND = waves(places_N2, self.places_to_maps.in_features // 2, shortest=0.1, longest=4.0).flatten(1)
        logits_BNQ = self.features_to_maps(patches_BND) + self.places_to_maps(code_ND)
        maps_BQN = logits_BNQ.softmax(dim=1).transpose(1, 2)
        return self.what(maps_BQN @ patches_BND) + self.where(maps_BQN @ (2 * places_N2 - 1))


POOLS: dict[str, type[nn.Module]] = {"attentive": AttentivePool, "keypoints": KeypointPool}


class Context(nn.Module):
    """All that is known at a step as one sequence of tokens: cameras, proprioception, task."""

    def __init__(
        self, config: OmnistreamConfig, cameras: list[str], width: int, state_size: int, text_width: int | None
    ) -> None:
        super().__init__()
        dim, parts = config.dim_model, 1 + len(config.levels)
        self.cameras = cameras
        self.pools = nn.ModuleList(POOLS[config.pooling](config, width, parts) for _ in cameras)
        self.state = _perceptron(state_size, dim, dim) if state_size else None
        self.text = None if text_width is None else nn.Linear(text_width, dim)
        self.tokens = sum(pool.tokens for pool in self.pools) + (state_size > 0) + (text_width is not None)
        self.place_SD = nn.Parameter(torch.randn(self.tokens, dim) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(**_block(config)) for _ in range(config.n_encoder_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        features: dict[str, Tensor],
        grids_hw: dict[str, tuple[int, int]],
        state_BD: Tensor | None,
        text_BD: Tensor | None,
    ) -> Tensor:
        """(B, S, D)."""
        tokens = [
            pool(features[camera], grids_hw[camera]) for camera, pool in zip(self.cameras, self.pools, strict=True)
        ]
        if self.state is not None:
            tokens.append(self.state(state_BD.clamp(-STATE_LIMIT, STATE_LIMIT))[:, None])
        if self.text is not None:
            tokens.append(self.text(text_BD)[:, None])
        context_BSD = torch.cat(tokens, dim=1) + self.place_SD
        for block in self.blocks:
            context_BSD = block(context_BSD)
        return self.norm(context_BSD)


class StateAsAction(nn.Module):
    """Where the robot is, as the normalised action that would keep it there: what relative actions are relative to.

    Args:
        normalisation: (2, A) means and deviations of states, and those of actions; None where saved ones will follow.
    """

    def __init__(self, size: int, normalisation: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        state_2A, action_2A = normalisation or (torch.full((2, size), float("nan")),) * 2
        moves_A = action_2A[1] > 1e-6  # what never moved is not told by where it is
        deviation_A = torch.where(moves_A, action_2A[1], 1.0)
        self.register_buffer("scale_A", state_2A[1] / deviation_A * moves_A)
        self.register_buffer("offset_A", (state_2A[0] - action_2A[0]) / deviation_A * moves_A)

    def forward(self, state_BA: Tensor) -> Tensor:
        """(B, 1, A) of the normalised state."""
        return (state_BA * self.scale_A + self.offset_A).clamp(-STATE_LIMIT, STATE_LIMIT)[:, None]


class ActionHead(nn.Module, ABC):
    """A chunk of T normalised actions from a context."""

    @abstractmethod
    def loss(self, context_BSD: Tensor, actions_BTA: Tensor, valid_BT: Tensor) -> Tensor:
        """() mean over the steps that are part of the episode."""

    @abstractmethod
    def sample(self, context_BSD: Tensor, noise_BTA: Tensor, old: OldChunk | None = None) -> Tensor:
        """(B, T, A). ``noise_BTA`` is standard normal; heads that need none ignore it."""


class RegressionHead(ActionHead):
    """One query a step attends to the context; L1."""

    def __init__(self, config: OmnistreamConfig, context_tokens: int, action_size: int) -> None:
        super().__init__()
        self.decoder = ChunkDecoder(config, action_size)

    def loss(self, context_BSD: Tensor, actions_BTA: Tensor, valid_BT: Tensor) -> Tensor:
        return masked_mean((self._predict(context_BSD) - actions_BTA).abs(), valid_BT)

    def sample(self, context_BSD: Tensor, noise_BTA: Tensor, old: OldChunk | None = None) -> Tensor:
        return crossfade(self._predict(context_BSD), old)

    def _predict(self, context_BSD: Tensor) -> Tensor:
        queries_BTD = self.decoder.place_TD.expand(len(context_BSD), -1, -1)
        return self.decoder(queries_BTD, context_BSD)


class MLPHead(ActionHead):
    """The tokens side by side through a perceptron; L1."""

    def __init__(self, config: OmnistreamConfig, context_tokens: int, action_size: int) -> None:
        super().__init__()
        self.shape_TA = (config.chunk_size, action_size)
        width = config.dim_feedforward
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(context_tokens * config.dim_model, width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            _perceptron(width, width, math.prod(self.shape_TA)),
        )

    def loss(self, context_BSD: Tensor, actions_BTA: Tensor, valid_BT: Tensor) -> Tensor:
        return masked_mean((self._predict(context_BSD) - actions_BTA).abs(), valid_BT)

    def sample(self, context_BSD: Tensor, noise_BTA: Tensor, old: OldChunk | None = None) -> Tensor:
        return crossfade(self._predict(context_BSD), old)

    def _predict(self, context_BSD: Tensor) -> Tensor:
        return self.layers(context_BSD).unflatten(1, self.shape_TA)


class FlowHead(ActionHead):
    """Flow matching: a velocity field that carries noise (time 1) to actions (time 0) along straight lines.

    x_time = time * noise + (1 - time) * actions, velocity = noise - actions, as LeRobot's flow policies have it.
    """

    def __init__(self, config: OmnistreamConfig, context_tokens: int, action_size: int) -> None:
        super().__init__()
        self.steps = config.flow_steps
        self.embed = nn.Linear(action_size, config.dim_model)
        self.time = _perceptron(config.dim_model, config.dim_model, config.dim_model)
        self.decoder = ChunkDecoder(config, action_size)

    def loss(self, context_BSD: Tensor, actions_BTA: Tensor, valid_BT: Tensor) -> Tensor:
        b, device = len(actions_BTA), actions_BTA.device
        time_B = sample_time_beta(b, device, alpha=1.5, beta=1.0, scale=0.999, offset=0.001)
        noise_BTA = torch.randn_like(actions_BTA)
        noisy_BTA = torch.lerp(actions_BTA, noise_BTA, time_B[:, None, None])
        velocity_BTA = self._velocity(noisy_BTA, time_B, context_BSD)
        return masked_mean((velocity_BTA - (noise_BTA - actions_BTA)).square(), valid_BT)

    def sample(self, context_BSD: Tensor, noise_BTA: Tensor, old: OldChunk | None = None) -> Tensor:
        if old is None:
            return euler_integrate(lambda x, time: self._velocity(x, time, context_BSD), noise_BTA, self.steps)
        return self._sample_onto(context_BSD, noise_BTA, old)

    def _sample_onto(self, context_BSD: Tensor, noise_BTA: Tensor, old: OldChunk) -> Tensor:
        """LeRobot's guidance towards the old chunk; it takes gradients, which tensors of inference mode cannot have."""
        with torch.inference_mode(False), torch.no_grad():
            context_BSD, noise_BTA, left_BTA = context_BSD.clone(), noise_BTA.clone(), old.actions_BTA.clone()
            chunk_BTA = euler_integrate(
                lambda x, time: self._velocity(x, time, context_BSD),
                noise_BTA,
                self.steps,
                rtc_processor=old.rtc,
                rtc_enabled=True,
                inference_delay=old.delay_steps,
                prev_chunk_left_over=left_BTA,
                execution_horizon=old.rtc.rtc_config.execution_horizon,
            ).detach()
        chunk_BTA[:, : old.delay_steps] = left_BTA[:, : old.delay_steps]
        return chunk_BTA

    def _velocity(self, noisy_BTA: Tensor, time_B: Tensor, context_BSD: Tensor) -> Tensor:
        time_BD = self.time(waves(time_B[:, None], self.embed.out_features, shortest=4e-3, longest=4.0)[:, 0])
        return self.decoder(self.embed(noisy_BTA) + time_BD[:, None] + self.decoder.place_TD, context_BSD)


class ChunkDecoder(nn.Module):
    """T step tokens attend to each other and to the context, and become actions."""

    def __init__(self, config: OmnistreamConfig, action_size: int) -> None:
        super().__init__()
        self.place_TD = nn.Parameter(torch.randn(config.chunk_size, config.dim_model) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(**_block(config)) for _ in range(config.n_decoder_layers)
        )
        self.norm = nn.LayerNorm(config.dim_model)
        self.out = nn.Linear(config.dim_model, action_size)

    def forward(self, steps_BTD: Tensor, context_BSD: Tensor) -> Tensor:
        for block in self.blocks:
            steps_BTD = block(steps_BTD, context_BSD)
        return self.out(self.norm(steps_BTD))


HEADS: dict[str, type[ActionHead]] = {"regression": RegressionHead, "flow": FlowHead, "mlp": MLPHead}


def crossfade(chunk_BTA: Tensor, old: OldChunk | None) -> Tensor:
    """The old chunk for the delay, then over to the new one with the weights of real-time chunking."""
    if old is None:
        return chunk_BTA
    left = old.actions_BTA.shape[1]
    # What is carried out meanwhile is what was planned, however short the horizon; the padding has no weight.
    horizon = min(max(old.rtc.rtc_config.execution_horizon, old.delay_steps), left)
    weights_T = old.rtc.get_prefix_weights(old.delay_steps, horizon, chunk_BTA.shape[1]).to(chunk_BTA)
    padded_BTA = F.pad(old.actions_BTA, (0, 0, 0, chunk_BTA.shape[1] - left))
    return torch.lerp(chunk_BTA, padded_BTA, weights_T[None, :, None])


def without_padding(left_BTA: Tensor) -> Tensor:
    """(B, T', A) less the steps of zeros at the end, with which LeRobot's loop makes left-overs as long as its horizon.

    A head never gives exact zeros; taken for actions they would pull the next chunk to the mean of the data.
    """
    planned_T = left_BTA.ne(0).any(dim=-1).any(dim=0)
    return left_BTA[:, : int(planned_T.nonzero().max()) + 1 if planned_T.any() else 0]


def masked_mean(error_BTA: Tensor, valid_BT: Tensor) -> Tensor:
    """() mean over valid steps and all action numbers."""
    return (error_BTA.mean(-1) * valid_BT).sum() / valid_BT.sum().clamp(min=1)


def scaled_parts(features_BND: Tensor, parts: int) -> Tensor:
    """(B, N, D) with every block's features brought to one scale."""
    scaled = [F.layer_norm(part, part.shape[-1:]) for part in features_BND.chunk(parts, dim=-1)]
    return torch.cat(scaled, dim=-1) if parts > 1 else scaled[0]


def waves(values_BC: Tensor, width: int, *, shortest: float, longest: float) -> Tensor:
    """(B, C, width) sines and cosines of each value, periods spread geometrically."""
    exponent = torch.linspace(0, 1, width // 2, device=values_BC.device)
    angle = values_BC[..., None] * (2 * math.pi / (shortest * (longest / shortest) ** exponent))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def patch_places(grid_hw: tuple[int, int], like: Tensor) -> Tensor:
    """(N, 2) row and column of each patch's middle, both in 0..1."""
    rows, columns = grid_hw
    y, x = torch.meshgrid(
        (torch.arange(rows, device=like.device) + 0.5) / rows,
        (torch.arange(columns, device=like.device) + 0.5) / columns,
        indexing="ij",
    )
    return torch.stack([y.flatten(), x.flatten()], dim=-1).to(like.dtype)


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def _block(config: OmnistreamConfig) -> dict:
    return {
        "d_model": config.dim_model,
        "nhead": config.n_heads,
        "dim_feedforward": config.dim_feedforward,
        "dropout": config.dropout,
        "activation": "gelu",
        "batch_first": True,
        "norm_first": True,
    }
