"""What a training run is: frozen, checked when built, saved as JSON beside its state before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from omnistream_core.config import ModelConfig
from omnistream_core.errors import ConfigError
from omnistream_core.heads.language import LanguageConfig
from omnistream_core.pretraining.objectives import GeometryWeights, SelfSupervisionWeights
from omnistream_core.pretraining.views import ViewConfig
from omnistream_core.pretraining.world import WorldConfig

TaskKind = Literal["image", "video", "geometry", "text"]
Optimizer = Literal["muon", "adam"]
Sharding = Literal["none", "ddp", "fsdp2"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of batch of a round; gradients of all tasks are added up before the one update.

    Attributes:
        kind: ``image`` and ``video`` self-supervision on single frames and on clips, ``geometry``, ``text``.
        frames: of a batch, all processes together; its clips are as many as that gives at the stage's length.
        weight: of its loss in the sum (paper: 0.1 for self-supervision, 1 for geometry and for text).
    """

    kind: TaskKind
    frames: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        _require(self.kind in get_args(TaskKind), f"task kind {self.kind!r}: one of {get_args(TaskKind)} is needed")
        _require(self.frames >= 1, f"task frames = {self.frames}: 1 or more are needed")

    def clips(self, frames_per_clip: int) -> int:
        """Clips of a batch."""
        return max(1, self.frames // (1 if self.kind == "image" else frames_per_clip))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A share of the run with clips of one length.

    Attributes:
        until: fraction of the run at which the stage ends.
        frames: T of a clip.
    """

    until: float
    frames: int


@dataclass(frozen=True, kw_only=True)
class SelfSupervisionConfig:
    """Heads, views and teachers of self-supervision; the paper's sizes are the defaults.

    Attributes:
        prototypes, bottleneck, hidden: of both projection heads (CLS and patches each have one).
        cls_prototypes: where the CLS head has fewer; None is as many. Sinkhorn-Knopp gives every prototype its share of
            the batch: with far more of them than images, the target of each image is spread over all.
        momentum: of the moving-average teacher at the start; it ends at 1.
        student_temperature, teacher_temperature: of their softmax and Sinkhorn-Knopp.
        gram_from: fraction of the run after which patch similarities are held to an earlier teacher.
        gram_every: fraction of the run after which that teacher is replaced by today's.
    """

    prototypes: int = 65_536
    cls_prototypes: int | None = None
    bottleneck: int = 256
    hidden: int = 2048
    momentum: float = 0.994
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    gram_from: float = 0.5
    gram_every: float = 0.1
    views: ViewConfig = field(default_factory=ViewConfig)
    weights: SelfSupervisionWeights = field(default_factory=SelfSupervisionWeights)

    def __post_init__(self) -> None:
        _require(0 <= self.momentum < 1, f"teacher momentum = {self.momentum}: a value in [0, 1) is needed")
        _require(self.gram_every > 0, f"gram_every = {self.gram_every}: a positive fraction is needed")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The visibility that clips of geometry and text are trained under, so that a bounded memory is home ground.

    Attributes:
        bounded_share: share of the batches that see only the first frames and a window of recent ones, sizes drawn.
        gap_share: share of the batches with a gap in time: a run of frames is left out.
        longest_absence: where first frames and a window are seen, the frames after the first ones are told to come up
            to so many frames later than they do (log-uniform): on a robot the first frames lie far back.
    """

    bounded_share: float = 0.4
    gap_share: float = 0.2
    longest_absence: int = 1000

    def __post_init__(self) -> None:
        for name in ("bounded_share", "gap_share"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"memory {name} = {value}: a share in [0, 1] is needed")
        _require(self.longest_absence >= 0, f"memory longest_absence = {self.longest_absence}: 0 frames or more")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where clips come from.

    Attributes:
        world: the procedural world; the stage sets its clip length.
        recordings: folder of recorded clips (``data.shards``) that share of the batches is drawn from; None for none.
        recordings_share: share of the clips that come from there.
        reuse: how often a rendered clip is seen on average, mirrored half of the time.
        chunk_clips: clips that are rendered at once.
        chunks: newest rendered chunks that clips are drawn from.
        shards: independent streams of clips that a batch is put together from. Processes share them evenly, so the
            batches of a run do not depend on how many processes there are.
    """

    world: WorldConfig = field(default_factory=WorldConfig)
    recordings: str | None = None
    recordings_share: float = 0.0
    reuse: int = 4
    chunk_clips: int = 16
    chunks: int = 32
    shards: int = 1

    def __post_init__(self) -> None:
        for name in ("reuse", "chunk_clips", "chunks", "shards"):
            value = getattr(self, name)
            _require(value >= 1, f"data {name} = {value}: 1 or more is needed")
        _require(
            0 <= self.recordings_share <= 1, f"data recordings_share = {self.recordings_share}: in [0, 1] is needed"
        )
        _require(
            self.recordings is not None or self.recordings_share == 0,
            f"data recordings_share = {self.recordings_share} without a folder of recordings",
        )


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How the learner is spread and made fast; applied in this order.

    Attributes:
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
        compile: torch.compile each block.
        sharding: ``ddp`` copies, ``fsdp2`` shards the learner over the processes of ``torchrun``.
    """

    checkpoint_activations: bool = False
    compile: bool = False
    sharding: Sharding = "none"

    def __post_init__(self) -> None:
        _require(
            self.sharding in get_args(Sharding), f"sharding {self.sharding!r}: one of {get_args(Sharding)} is needed"
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes:
        model: what is trained; without geometry tasks, one without heads.
        tasks: batches of a round, in order.
        stages: in order; the last ends at 1.
        steps: updates of the run. With ``minutes`` the schedule follows the clock instead, earlier starts included,
            so that a run ends annealed on a machine of any speed; only with ``steps`` is it the same every time.
        start: checkpoint folder whose weights this run begins with; None begins with random ones.
        reset_confidence: whether the run begins with the same confidence everywhere, whatever ``start`` knows of it.
        freeze_backbone: whether the heads alone are trained, on a backbone that stays as it is.
        lr: peak learning rate. warmup_steps: linear rise; a cosine to a hundredth follows.
        optimizer: ``muon`` for the matrices of the blocks with Adam for the rest, or ``adam`` for all (the paper).
        clip_norm: largest norm of the gradient.
        world_compile: whether the world's kernels are compiled.
        bf16: whether forward passes run under bfloat16 autocast.
        spike: the run stops when a task's loss exceeds this many times its recent mean.
        seed: of everything that is drawn.
    """

    model: ModelConfig
    tasks: tuple[Task, ...] = (Task(kind="geometry", frames=64),)
    stages: tuple[Stage, ...] = (Stage(until=1.0, frames=4),)
    steps: int | None = None
    minutes: float | None = None
    start: str | None = None
    reset_confidence: bool = False
    freeze_backbone: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    geometry: GeometryWeights = field(default_factory=GeometryWeights)
    self_supervision: SelfSupervisionConfig = field(default_factory=SelfSupervisionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    lr: float = 1.5e-3
    warmup_steps: int = 200
    optimizer: Optimizer = "muon"
    clip_norm: float = 1.0
    world_compile: bool = True
    bf16: bool = True
    device: str = "cpu"
    spike: float = 10.0
    seed: int = 0
    save_every_s: float = 120.0
    log_every: int = 20
    pictures_every: int = 500

    def __post_init__(self) -> None:
        ends = [stage.until for stage in self.stages]
        _require(bool(ends) and ends == sorted(ends) and ends[-1] == 1.0, f"training stages end at {ends}: up to 1.0")
        _require((self.steps is None) != (self.minutes is None), "a run has either steps or minutes")
        _require((self.steps or 1) > 0 and (self.minutes or 1) > 0, "training steps and minutes must be positive")
        kinds = [task.kind for task in self.tasks]
        _require(bool(kinds) and len(set(kinds)) == len(kinds), f"training tasks {kinds}: each kind at most once")
        _require(
            ("geometry" in kinds) == (self.model.heads is not None),
            "geometry heads are trained by a geometry task, and by no other: give both or neither",
        )
        _require(
            not (self.freeze_backbone and self.self_supervised),
            "self-supervision trains nothing but the backbone: it cannot be frozen",
        )
        _require(self.optimizer in get_args(Optimizer), f"optimizer {self.optimizer!r}: one of {get_args(Optimizer)}")
        for task in self.tasks:
            for stage in self.stages:
                clips = task.clips(stage.frames)
                _require(
                    clips % self.data.shards == 0,
                    f"{clips} clips of a {task.kind} batch cannot be shared among {self.data.shards} data shards",
                )

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of tasks."""
        return frozenset(task.kind for task in self.tasks)

    @property
    def self_supervised(self) -> bool:
        """Whether any task is self-supervised."""
        return bool(self.kinds & {"image", "video"})
