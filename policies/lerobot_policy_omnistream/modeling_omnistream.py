"""The policy: every observation goes into the stream, an action head plans from its features.

Shape letters: B samples or rows, T frames or steps, N patches, S tokens of the context, A action numbers, D channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_policy_omnistream.acting import Ensemble, Plans
from lerobot_policy_omnistream.configuration_omnistream import OmnistreamConfig
from lerobot_policy_omnistream.encoder import Streams, build_encoder, saved_encoder
from lerobot_policy_omnistream.errors import PolicyError
from lerobot_policy_omnistream.feature_cache import FeatureCache
from lerobot_policy_omnistream.heads import HEADS, Context, OldChunk, StateAsAction, without_padding
from lerobot_policy_omnistream.language import TextEncoder

Batch = dict[str, Any]


class OmnistreamPolicy(PreTrainedPolicy):
    """Frozen features of a camera stream, and an action head.

    Deployed, it holds one memory for all rows and cameras; ``reset`` forgets all rows or those named. In training it
    reads the features of whole clips, or of a feature cache: the same numbers as in deployment.

    Args:
        config: with ``input_features`` and ``output_features`` set, as LeRobot's ``make_policy`` does.
        dataset_meta: of the dataset it will be trained on; its rate and statistics are taken over.
        saved: whether saved weights follow, those of the backbone too.

    Raises:
        PolicyError: features that do not fit, an unknown backbone or text encoder, a foreign feature cache.
    """

    config_class = OmnistreamConfig
    name = "omnistream"

    def __init__(
        self, config: OmnistreamConfig, *, dataset_meta: Any = None, saved: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(config)
        config.validate_features()
        if dataset_meta is not None:
            config.check_dataset(dataset_meta.features)
            config.fps = float(dataset_meta.fps)
        self.encoder = saved_encoder(config) if saved else build_encoder(config)
        self.text_encoder = None if config.text_encoder is None else TextEncoder(config.text_encoder)
        self._cameras = list(config.image_features)
        state_size = sum(config.input_features[key].shape[0] for key in config.proprioception)
        text_width = None if self.text_encoder is None else self.text_encoder.width
        self.context = Context(config, self._cameras, self.encoder.width, state_size, text_width)
        self._action_size = config.action_size = self._checked_action_size()
        self.head = HEADS[config.head](config, self.context.tokens, self._action_size)
        self.here = self._state_as_action(dataset_meta, saved) if config.relative_actions else None
        self._grids_hw = {
            key: self.encoder.grid_hw(feature.shape[-2:]) for key, feature in config.image_features.items()
        }
        self._feature_cache: FeatureCache | None = None
        if config.feature_cache and dataset_meta is not None:
            self._open_feature_cache().check_dataset(dataset_meta)
        self.init_rtc_processor()
        self.reset()

    # ---- LeRobot's contract ----

    def get_optim_params(self) -> list[dict[str, Any]]:
        frozen = self.config.freeze_backbone
        groups = [{"params": [*self.context.parameters(), *self.head.parameters()]}]
        backbone = {"params": list(self.encoder.parameters()), "lr": self.config.optimizer_lr_backbone}
        return groups if frozen else [*groups, backbone]

    def train(self, mode: bool = True) -> OmnistreamPolicy:
        """A backbone is always run as it is deployed, also while it is trained."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a training batch, as LeRobot's dataset and this policy's preprocessor make it."""
        actions_BTA = batch[ACTION]
        self._check_actions(actions_BTA)
        padded_BT = batch.get(f"{ACTION}_is_pad")
        valid_BT = torch.ones_like(actions_BTA[..., 0]) if padded_BT is None else (~padded_BT).to(actions_BTA.dtype)
        context_BSD = self._context(self._training_features(batch), batch)
        if self.here is not None:
            actions_BTA = actions_BTA - self.here(self._newest(batch, *self.config.proprioception))
        loss = self.head.loss(context_BSD, actions_BTA, valid_BT)
        return loss, {f"{self.config.head}_loss": loss.item()}

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Forget stream and plan, of all rows by default."""
        if rows is None or self._streams is None:
            self._streams: Streams | None = None
            self._plans: Plans | None = None
            self._ensemble: Ensemble | None = None
            return
        rows = list(rows)
        for part in (self._streams, self._plans, self._ensemble):
            if part is not None:
                part.reset(rows)

    @torch.no_grad()
    def select_action(self, batch: Batch, noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """(B, A) the next action of every row. The observation is pushed into the stream in any case."""
        self.eval()
        features = self._push(batch)
        if self._ensemble is not None:
            return self._ensemble.take(self._plan(features, batch, list(range(self._streams.rows)), noise))
        for has_old, rows in self._plans.due().items():
            old = self._old_chunk(self._plans.left_over(rows), self.config.rtc_delay_steps) if has_old else None
            self._plans.put(rows, self._plan(features, batch, rows, noise, old))
        return self._plans.take()

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: Batch,
        noise: Tensor | None = None,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, T, A) a chunk from now on; pushes the observation into the stream.

        Args:
            noise: (B, T, A) standard normal, for heads that need it.
            inference_delay: actions that will be carried out while this is computed, steps.
            prev_chunk_left_over: (B, T', A) or (T', A) what is still planned from now on, normalised.
        """
        self.eval()
        features = self._push(batch)
        old = None
        if prev_chunk_left_over is not None:
            left_BTA = prev_chunk_left_over if prev_chunk_left_over.ndim == 3 else prev_chunk_left_over[None]
            old = self._old_chunk(without_padding(left_BTA[:, : self.config.chunk_size]), inference_delay or 0)
        return self._plan(features, batch, list(range(self._streams.rows)), noise, old)

    @torch.no_grad()
    def observe(self, batch: Batch) -> None:
        """Only push the observation into the stream: where no chunk is due, for ``predict_action_chunk`` later."""
        self.eval()
        self._push(batch)

    def supports_rtc(self) -> bool:
        return True

    def init_rtc_processor(self) -> None:
        """Take ``config.rtc_config`` over; LeRobot's real-time loop calls it after setting that."""
        rtc = self.config.rtc_config
        self.rtc_processor = RTCProcessor(rtc) if rtc is not None and rtc.enabled else None

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> OmnistreamPolicy:
        """As LeRobot's; the backbone is the saved one, whatever has become of the checkpoint it came from.

        With ``dataset_meta`` it is trained on, and LeRobot normalises by the statistics of that dataset from then on.
        """
        if config is None:
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path, **kwargs)
        policy = super().from_pretrained(pretrained_name_or_path, config=config, saved=True, **kwargs)
        dataset_meta = kwargs.get("dataset_meta")
        if policy.here is not None and dataset_meta is not None:
            policy.here = policy._state_as_action(dataset_meta, saved=False).to(config.device)
        return policy

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        """Always strictly: a policy with missing weights is no policy."""
        return super()._load_as_safetensor(model, model_file, map_location, strict=True)

    # ---- seeing ----

    def _push(self, batch: Batch) -> dict[str, Tensor]:
        images = {camera: self._image(batch, camera) for camera in self._cameras}
        rows = len(next(iter(images.values())))
        if self._streams is None or self._streams.rows != rows:
            self._begin(rows)
        return self._streams.push(images)

    def _begin(self, rows: int) -> None:
        config = self.config
        self._streams = Streams(self.encoder, self._cameras, rows)
        self._plans = Plans(rows, config.n_action_steps)
        if config.temporal_ensemble_coeff is not None:
            self._ensemble = Ensemble(rows, config.chunk_size, config.temporal_ensemble_coeff)

    def _image(self, batch: Batch, camera: str) -> Tensor:
        if camera not in batch:
            there = [key for key in batch if key.startswith("observation.image")]
            raise PolicyError(f"no camera {camera!r} in the observation; there are: {', '.join(there) or 'none'}")
        expected, found = self.config.input_features[camera].shape, tuple(batch[camera].shape[-3:])
        if found != tuple(expected):
            raise PolicyError(f"{camera} is {found}; the policy was made for {tuple(expected)}")
        return batch[camera]

    def _training_features(self, batch: Batch) -> dict[str, Tensor]:
        if self.config.feature_cache:
            features = self._open_feature_cache().read(batch["index"], augmented=self.training)
            return {camera: value.to(batch[ACTION].device) for camera, value in features.items()}
        with torch.set_grad_enabled(not self.config.freeze_backbone and torch.is_grad_enabled()):
            return {camera: self._clip_features(batch, camera) for camera in self._cameras}

    def _clip_features(self, batch: Batch, camera: str) -> Tensor:
        images = self._image(batch, camera)
        if images.ndim == 4:  # no frames beside the sample's own
            return self.encoder(self.encoder.prepare(images)[:, None])[:, 0]
        if self.config.fps is None or "timestamp" not in batch:
            raise PolicyError("clips need the dataset's rate (fps) and their timestamp, to know where the stream began")
        frame_index_B = (batch["timestamp"].reshape(-1) * self.config.fps).round().long()
        return self.encoder.newest(images, frame_index_B)

    def _open_feature_cache(self) -> FeatureCache:
        if self._feature_cache is None:
            self._feature_cache = FeatureCache(self.config.feature_cache, self.encoder.key(), self._cameras)
        return self._feature_cache

    # ---- planning ----

    def _state_as_action(self, dataset_meta: Any, saved: bool) -> StateAsAction:
        if saved:
            return StateAsAction(self._action_size, None)
        if dataset_meta is None:
            raise PolicyError("relative_actions: the dataset is needed, to tell how states and actions are normalised")
        keys = {"STATE": self.config.proprioception[0], "ACTION": ACTION}
        return StateAsAction(
            self._action_size,
            tuple(self._normalisation(kind, dataset_meta.stats[key]) for kind, key in keys.items()),
        )

    def _normalisation(self, kind: str, stats: dict[str, Any]) -> Tensor:
        """(2, A) mean and deviation by which LeRobot normalises."""
        mean_A, std_A = (torch.as_tensor(stats[name]).float() for name in ("mean", "std"))
        if self.config.normalization_mapping[kind] is NormalizationMode.IDENTITY:
            mean_A, std_A = torch.zeros_like(mean_A), torch.ones_like(std_A)
        return torch.stack([mean_A, std_A])

    def _context(self, features: dict[str, Tensor], batch: Batch, rows: list[int] | None = None) -> Tensor:
        """(B, S, D) of the given rows of the batch; all by default."""
        states = [self._newest(batch, key) for key in self.config.proprioception]
        state_BD = torch.cat(states, dim=-1) if states else None
        if self.training and self.config.state_noise and states:
            state_BD = state_BD + self.config.state_noise * torch.randn_like(state_BD)
        text_BD = None if self.text_encoder is None else self._text(batch)
        if rows is not None:
            features = {camera: value[rows] for camera, value in features.items()}
            state_BD, text_BD = (None if value is None else value[rows] for value in (state_BD, text_BD))
        return self.context(features, self._grids_hw, state_BD, text_BD)

    def _newest(self, batch: Batch, key: str) -> Tensor:
        if key not in batch:
            raise PolicyError(f"no {key!r} in the observation; there are: {', '.join(map(str, batch))}")
        return batch[key][:, -1] if batch[key].ndim == 3 else batch[key]

    def _text(self, batch: Batch) -> Tensor:
        texts = batch.get("task")
        if not texts:
            raise PolicyError(f"text_encoder is {self.config.text_encoder!r}, but the observation has no 'task'")
        texts = [texts] if isinstance(texts, str) else texts
        if empty := [row for row, text in enumerate(texts) if not text.strip()]:
            raise PolicyError(
                f"text_encoder is {self.config.text_encoder!r}, but 'task' is empty in rows {empty}; it must say what "
                "to do, such as 'lift the cube'"
            )
        return self.text_encoder(texts, next(self.context.parameters()).device)

    def _plan(
        self,
        features: dict[str, Tensor],
        batch: Batch,
        rows: list[int],
        noise: Tensor | None,
        old: OldChunk | None = None,
    ) -> Tensor:
        context_BSD = self._context(features, batch, rows)
        noise_BTA = self._noise(rows).to(context_BSD) if noise is None else noise[rows]
        self._plans.note(rows)
        if self.here is None:
            return self.head.sample(context_BSD, noise_BTA, old)
        here_B1A = self.here(self._newest(batch, *self.config.proprioception)[rows])
        old = None if old is None else replace(old, actions_BTA=old.actions_BTA - here_B1A)
        return here_B1A + self.head.sample(context_BSD, noise_BTA, old)

    def _noise(self, rows: list[int]) -> Tensor:
        """(B, T, A) standard normal; a row's n-th chunk always starts from the same noise, whatever the others do."""
        shape_TA = (self.config.chunk_size, self._action_size)
        seeds = [self._plans.count[row] for row in rows]
        return torch.stack([torch.randn(shape_TA, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def _old_chunk(self, left_BTA: Tensor, delay_steps: int) -> OldChunk | None:
        if self.rtc_processor is None or left_BTA.shape[1] == 0:
            return None
        delay_steps = min(delay_steps, left_BTA.shape[1])
        return OldChunk(actions_BTA=left_BTA, delay_steps=delay_steps, rtc=self.rtc_processor)

    def _checked_action_size(self) -> int:
        """Of the actions that LeRobot has put in the place of those that the policy was saved with."""
        saved, size = self.config.action_size, self.config.action_feature.shape[0]
        if saved not in (None, size):
            raise PolicyError(f"the policy's actions have {saved} numbers, the environment's {size}")
        return size

    def _check_actions(self, actions_BTA: Tensor) -> None:
        expected = (self.config.chunk_size, self._action_size)
        if tuple(actions_BTA.shape[1:]) != expected:
            raise PolicyError(
                f"actions of the batch are {tuple(actions_BTA.shape[1:])} (steps, numbers); the policy's are {expected}"
            )
