"""OmniStream: one causal vision backbone for camera streams; depth, points, pose and features, frame by frame.

session = StreamSession.from_pretrained("omnistream-tiny")
for frame in open_source("walk.mcap"):
    prediction = session.step(frame)
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "StreamSession": "session",
    "StreamConfig": "config",
    "ModelConfig": "config",
    "BackboneConfig": "config",
    "HeadConfig": "config",
    "preset": "config",
    "OmniStreamModel": "model",
    "build_model": "model",
    "KVCache": "cache",
    "Frame": "types",
    "CameraModel": "types",
    "Prediction": "types",
    "FrameFeatures": "types",
    "open_source": "sources",
    "OmniStreamError": "errors",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that ``import omnistream_core`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
