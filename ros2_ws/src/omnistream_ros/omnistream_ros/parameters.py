"""The parameters of both nodes: each a field with its default, its range and what it says. There are no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omnistream_core.errors import ConfigError

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class Range:
    """What a parameter may be; ``live`` says whether it may change while the node is configured."""

    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def valid_text(self) -> str:
        """The valid values in words; "" where every value of its type is."""
        if self.choices:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        return "" if self.low is None else f"{self.low:g} to {self.high:g}"

    def allows(self, value: Any) -> bool:
        """Whether ``value``, already of the right type, is valid."""
        if self.choices:
            return value in self.choices
        return self.low is None or self.high is None or self.low <= value <= self.high


def setting(default: Any, description: str, **limits: Any) -> Any:
    """A field of a table of parameters."""
    metadata = {"range": Range(description=description, **limits)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class PerceptionSettings:
    """Parameters of the perception node."""

    checkpoint: str = setting("omnistream-tiny", "bundled checkpoint, folder or hub id of the model")
    device: str = setting("cpu", "torch device of the model: cpu, cuda, cuda:0, ...")
    dtype: str = setting("float32", "of weights, activations and memory", choices=("float32", "bfloat16", "float16"))
    window: int = setting(16, "recent images kept in a stream's memory", low=1, high=4096)
    sink: int = setting(1, "first images of a stream kept for ever beside the window", low=0, high=64)
    threads: int = setting(0, "CPU threads of the model; 0 leaves it to torch", low=0, high=256)
    warm_up_width: int = setting(640, "width of the images to allocate for at configure, pixels", low=16, high=8192)
    warm_up_height: int = setting(480, "height of the images to allocate for at configure, pixels", low=16, high=8192)
    autostart: bool = setting(False, "configure and activate at once, for machines without a lifecycle manager")

    cameras: list[str] = setting(  # noqa: RUF009  a field, not a value
        [""], "namespaces of the cameras, one stream each, taken as one batch; a single empty name: topics as they are"
    )
    transport: str = setting("raw", "image_raw, or image_raw/compressed", choices=("raw", "compressed"))
    image_qos: str = setting("sensor_data", "reliability asked of the camera", choices=("sensor_data", "reliable"))
    output_qos: str = setting("reliable", "reliability offered with the outputs", choices=("reliable", "best_effort"))
    output_queue: int = setting(5, "messages kept for a slow reader of an output", low=1, high=1000)
    batch_wait_s: float = setting(
        0.01, "how long an image waits for those of the other cameras, seconds", low=0.0, high=1.0
    )
    use_camera_info: bool = setting(True, "take intrinsics from camera_info; else those the model predicts")
    max_gap_s: float = setting(
        2.0, "pause between images after which the stream begins anew, seconds", low=0.05, high=3600.0, live=True
    )
    max_disorder_s: float = setting(
        0.5,
        "a stamp further back than this is a jump of time, not a straggler, seconds",
        low=0.001,
        high=60.0,
        live=True,
    )
    intrinsics_tolerance: float = setting(
        0.02, "relative change of intrinsics at which the stream begins anew", low=1e-6, high=10.0, live=True
    )

    publish_depth: bool = setting(True, "depth as 32FC1 in metres, with camera_info")
    publish_depth_mm: bool = setting(False, "depth as 16UC1 in millimetres, with camera_info")
    publish_confidence: bool = setting(True, "confidence as 32FC1, 1 and more, larger is surer")
    publish_points: bool = setting(True, "PointCloud2 in the camera's frame: xyz, rgb, confidence")
    publish_odometry: bool = setting(True, "pose of camera_frame in odom_frame")
    publish_path: bool = setting(True, "where camera_frame has been, in odom_frame")
    publish_tf: bool = setting(True, "transform odom_frame -> camera_frame; off where the robot has its own odometry")
    publish_camera_tf: bool = setting(
        True, "static transform camera_frame -> the images' frame_id; off where the camera driver has it"
    )
    publish_features: bool = setting(False, "patch features and CLS vector as FeatureMap")
    publish_feature_image: bool = setting(True, "the features' first three principal components as a picture")
    publish_map: bool = setting(True, "accumulated cloud in odom_frame")

    odom_frame: str = setting("odom", "frame of the stream's world, REP 103 axes; several cameras: <camera>/odom")
    camera_frame: str = setting("camera_link", "the camera with body axes (x forward, y left, z up); as odom_frame")
    position_stddev_m: float = setting(
        0.05, "written into the odometry's covariance, metres", low=0.0, high=1e3, live=True
    )
    angle_stddev_rad: float = setting(
        0.02, "written into the odometry's covariance, radians", low=0.0, high=10.0, live=True
    )
    path_length: int = setting(1000, "most poses of the path", low=1, high=100000)
    path_period_s: float = setting(
        0.5, "shortest time between two poses of the path, seconds", low=0.0, high=3600.0, live=True
    )

    points_organized: bool = setting(
        False, "keep the image's rows and columns, NaN where invalid; else valid points only", live=True
    )
    points_stride: int = setting(2, "every how manieth row and column becomes points", low=1, high=64, live=True)
    points_min_confidence: float = setting(1.0, "points below are left out", low=1.0, high=1e6, live=True)
    points_min_depth_m: float = setting(0.05, "points nearer are left out, metres", low=0.0, high=1e4, live=True)
    points_max_depth_m: float = setting(20.0, "points farther are left out, metres", low=0.01, high=1e4, live=True)

    map_voxel_m: float = setting(0.05, "edge of the map's voxels, metres", low=0.001, high=10.0)
    map_capacity: int = setting(
        200000, "most voxels of the map; beyond, the longest unseen give way", low=1000, high=5000000
    )
    map_period_s: float = setting(1.0, "time between two maps on the topic, seconds", low=0.0, high=3600.0, live=True)
    map_update_s: float = setting(
        0.2, "time between two images that go into the map, seconds", low=0.0, high=3600.0, live=True
    )
    map_stride: int = setting(4, "every how manieth row and column goes into the map", low=1, high=64)

    def __post_init__(self) -> None:
        check(self)
        if len(set(self.cameras)) != len(self.cameras) or (len(self.cameras) > 1 and "" in self.cameras):
            raise ConfigError(f"cameras = {self.cameras}: different names are needed, or a single empty one")
        if self.points_min_depth_m >= self.points_max_depth_m:
            raise ConfigError(
                f"points_min_depth_m = {self.points_min_depth_m}, points_max_depth_m = {self.points_max_depth_m}: "
                "the first must be smaller"
            )


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Parameters of the replay node."""

    path: str = setting("", "bag, video or folder of images to play")
    topic: str = setting("", "image topic of the bag; empty: the most likely one")
    rate: float = setting(1.0, "speed of playing over speed of recording", low=0.001, high=1000.0)
    loop: bool = setting(False, "begin again at the end; stamps jump back, as in the recording")
    start_s: float = setting(0.0, "seconds of the recording left out at its beginning", low=0.0, high=1e6)
    stop_s: float = setting(1e6, "second of the recording at which it ends", low=0.0, high=1e6)
    start_playing: bool = setting(True, "play at once; else wait for the service ~/play")
    wait_for_readers: int = setting(0, "readers of image_raw to wait for before the first image", low=0, high=100)
    frame_rate_hz: float = setting(30.0, "of a recording without stamps", low=0.01, high=1000.0)
    frame_id: str = setting("camera_optical_frame", "of a recording without frame ids")
    publish_clock: bool = setting(True, "publish the recording's time on /clock")
    publish_truth: bool = setting(False, "publish recorded depth and pose, where there are any, under truth/")
    exit_at_end: bool = setting(True, "end the process after the last image; else stay, for ~/play")

    def __post_init__(self) -> None:
        check(self)
        if self.start_s >= self.stop_s:
            raise ConfigError(f"start_s = {self.start_s}, stop_s = {self.stop_s}: the first must be smaller")


def ranges(table: type) -> dict[str, Range]:
    """name -> range of every parameter of a table."""
    return {entry.name: entry.metadata["range"] for entry in dataclasses.fields(table)}


def defaults(table: type) -> dict[str, Any]:
    """name -> default of every parameter of a table."""
    return {entry.name: getattr(table(), entry.name) for entry in dataclasses.fields(table)}


def complaint(table: type, name: str, value: Any) -> str:
    """Why ``value`` is refused, with the valid range; "" if it is not."""
    limits = ranges(table)[name]
    return "" if limits.allows(value) else f"{name} = {value!r}: {limits.valid_text()} is needed"


def check(settings: Any) -> None:
    """
    Raises:
        ConfigError: the first value out of its range, with the range.
    """
    for name in ranges(type(settings)):
        message = complaint(type(settings), name, getattr(settings, name))
        if message:
            raise ConfigError(message)


def with_changes(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """``settings`` with other values.

    Raises:
        ConfigError: a value out of its range.
    """
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def markdown_table(table: type) -> str:
    """The table for the README."""
    lines = ["| parameter | default | valid | live | meaning |", "|---|---|---|---|---|"]
    for name, default in defaults(table).items():
        limits = ranges(table)[name]
        shown = str(default).lower() if isinstance(default, bool) else f"{default!r}".replace("'", '"')
        row = (f"`{name}`", f"`{shown}`", limits.valid_text(), "yes" if limits.live else "", limits.description)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)
