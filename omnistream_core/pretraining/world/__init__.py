"""The procedural world: endless random scenes with exact depth, poses, ids, classes, normals and flow.

``render_clips(seeds, config)`` turns integers into clips. The same seed gives the same clip, whatever
else is in the batch.
"""

from .config import CLASS_ID, CLASSES, HELD_OUT_SEED, ClipBatch, WorldConfig
from .language import Description, Question, describe, describe_clips
from .places import sample_scene
from .render import render_clips, render_scenes
from .scene import Scene, SceneObject

__all__ = [
    "CLASSES",
    "CLASS_ID",
    "HELD_OUT_SEED",
    "ClipBatch",
    "Description",
    "Question",
    "Scene",
    "SceneObject",
    "WorldConfig",
    "describe",
    "describe_clips",
    "render_clips",
    "render_scenes",
    "sample_scene",
]
