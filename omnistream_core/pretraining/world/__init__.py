"""The procedural world: endless random rooms with exact depth, poses and instance ids.

``render_clips(seeds, config)`` turns integers into clips. The same seed gives the same clip, whatever
else is in the batch.
"""

from .config import HELD_OUT_SEED, ClipBatch, WorldConfig
from .render import render_clips
from .scene import Scene, sample_scene

__all__ = ["HELD_OUT_SEED", "ClipBatch", "Scene", "WorldConfig", "render_clips", "sample_scene"]
