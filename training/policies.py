"""Recipes of policies: which policy learns a task, from which demonstrations and with which settings.

Plain data; benchmarks/policies.py runs them: python -m benchmarks.policies --tasks Lift --policies ours
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

# Ten and fifty tasks for one policy.
METAWORLD_SETS = ("MT10", "MT50")
METAWORLD_IMAGE_SIZE_PX = 160


@dataclass(frozen=True, kw_only=True)
class PolicyRecipe:
    """One way to learn a task from demonstrations.

    Attributes:
        kind: a policy type that LeRobot knows.
        settings: fields of its configuration.
        batch_size: samples a step.
        cached: whether it learns from features that were cached before.
        corrects: a policy of ``POLICIES`` that begins episodes which the expert ends; what the expert does is added to
            the demonstrations.
    """

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    batch_size: int
    cached: bool = False
    corrects: str | None = None


# robosuite's actions lie in -1 ... 1 already, and those that hardly ever move must not be blown up.
AS_THEY_ARE = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "IDENTITY"}

# Ours carries out so many steps before it plans the next chunk. Few put a mistake right sooner. Where experts stand
# still, as in closing a hand, a policy without memory of its actions may stay there; many get past it (Stack, the same
# weights: 28 of 50 with 16, 24 with 4).
QUICK: dict[str, Any] = {"n_action_steps": 4}
# For things that are smaller than a patch: pictures of 10 x 10 patches, and places alone.
FINE: dict[str, Any] = {"image_area_px": 160 * 160, "pooling": "keypoints"}
# One policy for many tasks, told in words which.
TOLD: dict[str, Any] = {"text_encoder": "minilm", "tokens_per_camera": 32}


@dataclass(frozen=True, kw_only=True)
class TaskRecipe:
    """What a task is learned from, and for how long.

    Attributes:
        clean: episodes of its expert; of each task of a set.
        noisy: episodes in which the expert puts drifting noise on its motions right (DART, Laskey et al., 2017).
        minutes: of training, processor time of one thread.
        settings: fields of our policy's configuration for this task.
    """

    clean: int
    noisy: int = 0
    minutes: float = 8
    settings: dict[str, Any] = field(default_factory=dict)


NOISE = 0.12
TASKS: dict[str, TaskRecipe] = {
    "Lift": TaskRecipe(clean=100, noisy=50, minutes=5, settings=QUICK),
    "Door": TaskRecipe(clean=100, minutes=3, settings=QUICK),
    "Stack": TaskRecipe(clean=100, noisy=50, settings=FINE),
    "PickPlaceCan": TaskRecipe(clean=100, noisy=50),
    "NutAssemblySquare": TaskRecipe(clean=100, noisy=50, settings=FINE),
    "MT10": TaskRecipe(clean=30, settings=FINE | TOLD),
    "MT50": TaskRecipe(clean=4, minutes=10, settings=FINE | TOLD),
}
OURS = PolicyRecipe(
    kind="omnistream",
    settings={"normalization_mapping": AS_THEY_ARE, "chunk_size": 16, "n_action_steps": 16},
    batch_size=128,
    cached=True,
)
# At a tenth of their published sizes LeRobot's policies get through enough samples on a CPU; ResNet-18 from scratch.
ACT = PolicyRecipe(
    kind="act",
    settings={
        "pretrained_backbone_weights": None,
        "chunk_size": 16,
        "n_action_steps": 8,
        "dim_model": 192,
        "n_heads": 4,
        "dim_feedforward": 512,
        "optimizer_lr": 1e-4,
        "optimizer_lr_backbone": 1e-4,
    },
    batch_size=16,
)
DIFFUSION = PolicyRecipe(
    kind="diffusion",
    settings={
        "pretrained_backbone_weights": None,
        "use_group_norm": True,
        "horizon": 16,
        "n_action_steps": 8,
        "down_dims": (128, 256, 512),
        "noise_scheduler_type": "DDIM",
        "num_inference_steps": 10,
        "crop_shape": (116, 116),
    },
    batch_size=16,
)

POLICIES: dict[str, PolicyRecipe] = {
    "ours": OURS,
    "ours-flow": replace(OURS, settings=OURS.settings | {"head": "flow"}),
    "ours-regression": replace(OURS, settings=OURS.settings | {"head": "regression", "n_encoder_layers": 1}),
    "ours-corrected": replace(OURS, corrects="ours"),
    "ours-random": replace(OURS, settings=OURS.settings | {"backbone": "random:tiny"}),
    # Backbones of the same size that learned from one objective, half an hour each: python -m benchmarks.synergy.
    "ours-geometry": replace(OURS, settings=OURS.settings | {"backbone": "runs/synergy/geometry/checkpoint"}),
    "ours-self-supervision": replace(
        OURS, settings=OURS.settings | {"backbone": "runs/synergy/self-supervision/checkpoint"}
    ),
    "act": ACT,
    "diffusion": DIFFUSION,
}

# Episodes of each task that a policy begins, and the steps it has at most before the expert takes over.
CORRECTIONS = 50
CORRECTED_STEPS = 250

# One perturbation of the environment each; see sim/README.md.
PERTURBATIONS: dict[str, dict[str, float]] = {
    "none": {},
    "camera_moved": {"stress_camera_moved_m": 0.05},
    "light_changed": {"stress_light_changed": 0.5},
    "texture_changed": {"stress_texture_changed": 0.5},
    "distractors": {"stress_distractors": 3},
    "image_noise": {"stress_image_noise": 0.05},
    "frames_dropped": {"stress_frames_dropped": 0.3},
    "action_delay": {"stress_action_delay_steps": 2},
}
