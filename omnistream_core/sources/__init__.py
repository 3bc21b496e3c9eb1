"""Where frames come from: bags, videos, image folders, cameras. Libraries load with the kind that needs them."""

from __future__ import annotations

from pathlib import Path

from omnistream_core.errors import SourceError
from omnistream_core.sources.base import IMAGE_SUFFIXES, FrameSource

__all__ = ["FrameSource", "open_source"]

BAG_SUFFIXES = (".bag", ".mcap", ".db3", ".active")


def open_source(
    path: str | Path, *, topic: str | None = None, depth_topic: str | None = None, pose_topic: str | None = None
) -> FrameSource:
    """Open whatever ``path`` names.

    ============================================  ==============
    a number                                      live camera
    ``.bag``, ``.mcap``, ``.db3``, rosbag2 folder  ROS recording
    folder of images, or with ``rgb/`` in it       image folder
    any other file                                video
    ============================================  ==============

    Args:
        path: as above.
        topic: image topic of a ROS recording; None to choose one, see ``sources.rosbag``.
        depth_topic, pose_topic: topics of registered depth and of the camera's pose; None to choose, "" for none.

    Raises:
        SourceError: nothing there, nothing that can be read, or a topic given for something without topics.
    """
    kind = source_kind(path)
    if kind == "rosbag":
        from omnistream_core.sources.rosbag import RosbagSource

        return RosbagSource(path, topic=topic, depth_topic=depth_topic, pose_topic=pose_topic)
    if topic or depth_topic or pose_topic:
        raise SourceError(f"{path}: topic {topic or depth_topic or pose_topic!r} given, but this {kind} has no topics")
    if kind == "camera":
        from omnistream_core.sources.camera import CameraSource

        return CameraSource(int(str(path)))
    if kind == "folder":
        from omnistream_core.sources.folder import FolderSource

        return FolderSource(path)
    from omnistream_core.sources.video import VideoSource

    return VideoSource(path)


def source_kind(path: str | Path) -> str:
    """``"camera"``, ``"rosbag"``, ``"folder"`` or ``"video"``, from the path and what lies there.

    Raises:
        SourceError: nothing there, an empty file, a folder that holds no recording.
    """
    text, place = str(path), Path(path)
    if text.isdecimal() and not place.exists():
        return "camera"
    if not place.exists():
        raise SourceError(f"{text}: no such file or folder")
    if place.is_dir():
        return _folder_kind(place)
    if place.stat().st_size == 0:
        raise SourceError(f"{text}: the file is empty")
    suffix = place.suffix.lower()
    if suffix in BAG_SUFFIXES:
        return "rosbag"
    return "folder" if suffix in IMAGE_SUFFIXES else "video"


def _folder_kind(place: Path) -> str:
    names = [entry.name.lower() for entry in place.iterdir()]
    if "metadata.yaml" in names or any(name.endswith((".mcap", ".db3")) for name in names):
        return "rosbag"
    if any(name in ("rgb", "color", "images") or name.endswith(IMAGE_SUFFIXES) for name in names):
        return "folder"
    if (place / "meta" / "info.json").exists():
        raise SourceError(f"{place}: a LeRobot data set; give one of the episode files under videos/ instead")
    raise SourceError(f"{place}: neither images, nor rgb/, nor a rosbag2 recording in this folder")
