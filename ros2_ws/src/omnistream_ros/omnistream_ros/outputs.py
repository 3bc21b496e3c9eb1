"""Everything the perception node publishes of one camera. What nobody has subscribed to is not computed."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry, Path
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.lifecycle.publisher import LifecyclePublisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from omnistream_core.sinks.drawing import FeaturePca
from omnistream_core.types import Frame, Prediction
from omnistream_msgs.msg import FeatureMap
from omnistream_ros import conversions
from omnistream_ros.cloud import CloudBuilder, colours_of
from omnistream_ros.map_cloud import MapCloud
from omnistream_ros.parameters import PerceptionSettings


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One image with what the model says of it.

    Attributes:
        header: of the image's message.
        frame: as the model got it.
        prediction: of the model.
        info: the CameraInfo that the frame's intrinsics came from; None where they are predicted.
    """

    header: Header
    frame: Frame
    prediction: Prediction
    info: CameraInfo | None


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What FeatureMap says of the model."""

    checkpoint: str
    layer: int


class CameraOutputs:
    """The publishers of one camera under ``~/`` or ``~/<camera>/``, their messages and the memory behind them."""

    def __init__(self, node: LifecycleNode, settings: PerceptionSettings, stream: int, facts: ModelFacts) -> None:
        self._node, self._settings, self._stream, self._facts = node, settings, stream, facts
        camera = settings.cameras[stream]
        self._prefix = f"~/{camera}/" if camera else "~/"
        self.odom_frame, self.camera_frame = (
            f"{camera}/{frame}" if camera else frame for frame in (settings.odom_frame, settings.camera_frame)
        )
        self._publishers: dict[str, LifecyclePublisher[Any]] = {}
        self._create_publishers()
        self._depth, self._depth_mm, self._confidence, self._picture = Image(), Image(), Image(), Image()
        self._points = conversions.point_cloud()
        self._map_points = conversions.point_cloud(("x", "y", "z", "rgb"))
        self._features = FeatureMap(dtype="float32", layer=facts.layer, checkpoint=facts.checkpoint, stream=stream)
        self._pca = FeaturePca()
        self._map = (
            MapCloud(voxel_m=settings.map_voxel_m, capacity=settings.map_capacity) if settings.publish_map else None
        )
        self._path: deque[PoseStamped] = deque(maxlen=settings.path_length)
        self._static_frame = ""
        self.reset()
        self.apply(settings)

    def apply(self, settings: PerceptionSettings) -> None:
        """Take over the live parameters."""
        self._settings = settings
        limits = {
            "min_confidence": settings.points_min_confidence,
            "min_depth_m": settings.points_min_depth_m,
            "max_depth_m": settings.points_max_depth_m,
        }
        self._cloud = CloudBuilder(organized=settings.points_organized, stride=settings.points_stride, **limits)
        self._map_cloud = CloudBuilder(organized=False, stride=settings.map_stride, **limits)

    def reset(self) -> None:
        """A new world: the path and the map begin anew."""
        self._path.clear()
        if self._map is not None:
            self._map.clear()
        self._next_ns = dict.fromkeys(("path", "map_update", "map"), -(1 << 62))

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def publish(self, result: StepResult) -> bool:
        """Publish one result: images first, which take the longest to their readers, then what takes time to compute.

        Returns:
            False where the node is not active any more: nothing was published.
        """
        if not any(publisher.is_activated for publisher in self._publishers.values()):
            return False
        self._publish_images(result)
        pose = conversions.pose_message(conversions.odom_from_camera_link(result.prediction.world_from_camera_44))
        self._publish_pose(result, pose)
        if self._wanted("points"):
            self._points.header = result.header
            conversions.fill_cloud(self._points, self._cloud.build(result.prediction, result.frame.image_HW3))
            self._publishers["points"].publish(self._points)
        self._publish_features(result)
        self._publish_path(result, pose)
        self._publish_map(result)
        return True

    def _create_publishers(self) -> None:
        settings = self._settings
        reliable = settings.output_qos == "reliable"
        qos = QoSProfile(
            depth=settings.output_queue,
            history=HistoryPolicy.KEEP_LAST,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        tf_qos = QoSProfile(depth=100)
        latched_qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        # Each event that is waited for makes every wake-up of the executor longer; who is offered all can miss nothing.
        events = PublisherEventCallbacks(use_default_callbacks=not reliable)
        for switch, name, kind, topic, profile in (
            (settings.publish_tf, "tf", TFMessage, "/tf", tf_qos),
            (settings.publish_camera_tf, "tf_static", TFMessage, "/tf_static", latched_qos),
            (settings.publish_odometry, "odometry", Odometry, "odometry", qos),
            (settings.publish_depth, "depth", Image, "depth/image", qos),
            (settings.publish_depth, "depth_info", CameraInfo, "depth/camera_info", qos),
            (settings.publish_depth_mm, "depth_mm", Image, "depth_mm/image", qos),
            (settings.publish_depth_mm, "depth_mm_info", CameraInfo, "depth_mm/camera_info", qos),
            (settings.publish_confidence, "confidence", Image, "confidence", qos),
            (settings.publish_points, "points", PointCloud2, "points", qos),
            (settings.publish_features, "features", FeatureMap, "features", qos),
            (settings.publish_feature_image, "feature_image", Image, "feature_image", qos),
            (settings.publish_path, "path", Path, "path", qos),
            (settings.publish_map, "map", PointCloud2, "map", qos),
        ):
            if switch:
                full = topic if topic.startswith("/") else self._prefix + topic
                self._publishers[name] = self._node.create_lifecycle_publisher(
                    kind, full, profile, event_callbacks=events
                )

    def _wanted(self, name: str) -> bool:
        publisher = self._publishers.get(name)
        return publisher is not None and publisher.is_activated and publisher.get_subscription_count() > 0

    def _publish_pose(self, result: StepResult, pose: Any) -> None:
        header = Header(stamp=result.header.stamp, frame_id=self.odom_frame)
        if "tf" in self._publishers:
            transform = conversions.transform_message(header, self.camera_frame, pose)
            self._publishers["tf"].publish(TFMessage(transforms=[transform]))
        if "tf_static" in self._publishers:
            self._publish_camera_tf(result.header)
        if self._wanted("odometry"):
            settings = self._settings
            odometry = conversions.odometry_message(
                header,
                self.camera_frame,
                pose,
                position_stddev_m=settings.position_stddev_m,
                angle_stddev_rad=settings.angle_stddev_rad,
            )
            self._publishers["odometry"].publish(odometry)

    def _publish_camera_tf(self, image_header: Header) -> None:
        frame_id = image_header.frame_id
        publisher = self._publishers["tf_static"]
        if not publisher.is_activated or frame_id in ("", self._static_frame, self.camera_frame):
            return
        header = Header(stamp=image_header.stamp, frame_id=self.camera_frame)
        pose = conversions.pose_message(conversions.BODY_FROM_OPTICAL_44)
        publisher.publish(TFMessage(transforms=[conversions.transform_message(header, frame_id, pose)]))
        self._static_frame = frame_id

    def _publish_images(self, result: StepResult) -> None:
        prediction = result.prediction
        self._publish_image("depth", self._depth, result, lambda: prediction.depth_m_HW, "32FC1")
        self._publish_info("depth_info", result)
        self._publish_image("confidence", self._confidence, result, lambda: prediction.confidence_HW, "32FC1")
        self._publish_image(
            "depth_mm", self._depth_mm, result, lambda: conversions.millimetres(prediction.depth_m_HW), "16UC1"
        )
        self._publish_info("depth_mm_info", result)

    def _publish_image(self, name: str, message: Image, result: StepResult, pixels: Any, encoding: str) -> None:
        if self._wanted(name):
            message.header = result.header
            conversions.fill_image(message, pixels(), encoding)
            self._publishers[name].publish(message)

    def _publish_info(self, name: str, result: StepResult) -> None:
        if not self._wanted(name):
            return
        info = result.info or conversions.info_from_camera(result.prediction.camera, result.header)
        info.header = result.header
        self._publishers[name].publish(info)

    def _publish_features(self, result: StepResult) -> None:
        features_hwD = result.prediction.features_hwD
        if self._wanted("features"):
            message = self._features
            message.header, message.frame_index = result.header, result.prediction.stream_index
            message.grid_height, message.grid_width, message.channels = features_hwD.shape
            height, width = result.frame.size_hw
            message.patch_height_px, message.patch_width_px = height / message.grid_height, width / message.grid_width
            for values, field in ((result.prediction.cls_D, message.cls), (features_hwD, message.features)):
                _fill_floats(field, values)
            self._publishers["features"].publish(message)
        if self._wanted("feature_image"):
            self._pca.observe(features_hwD)
            self._picture.header = result.header
            conversions.fill_image(self._picture, self._pca.colours(features_hwD, result.frame.size_hw), "rgb8")
            self._publishers["feature_image"].publish(self._picture)

    def _publish_path(self, result: StepResult, pose: Any) -> None:
        if "path" not in self._publishers or not self._due("path", result, self._settings.path_period_s):
            return
        header = Header(stamp=result.header.stamp, frame_id=self.odom_frame)
        self._path.append(PoseStamped(header=header, pose=pose))
        if self._wanted("path"):
            self._publishers["path"].publish(Path(header=header, poses=list(self._path)))

    def _publish_map(self, result: StepResult) -> None:
        if self._map is None:
            return
        if self._due("map_update", result, self._settings.map_update_s):
            points_n5 = self._map_cloud.build(result.prediction, result.frame.image_HW3)
            odom_from_optical = conversions.odom_from_optical(result.prediction.world_from_camera_44).astype(np.float32)
            points_n3 = points_n5[:, :3] @ odom_from_optical[:3, :3].T + odom_from_optical[:3, 3]
            self._map.add(points_n3, colours_of(points_n5))
        if self._wanted("map") and self._due("map", result, self._settings.map_period_s):
            points_n3, colours_n3 = self._map.points()
            cloud_n4 = np.empty((len(points_n3), 4), np.float32)
            cloud_n4[:, :3] = points_n3
            cloud_n4.view("<u4")[:, 3] = colours_n3.astype("<u4") @ np.array([1 << 16, 1 << 8, 1], "<u4")
            self._map_points.header = Header(stamp=result.header.stamp, frame_id=self.odom_frame)
            conversions.fill_cloud(self._map_points, cloud_n4)
            self._publishers["map"].publish(self._map_points)

    def _due(self, what: str, result: StepResult, period_s: float) -> bool:
        """Whether ``period_s`` of the stream's own time has gone by since this was last due."""
        stamp_ns = conversions.stamp_ns_of(result.header.stamp)
        if stamp_ns < self._next_ns[what]:
            return False
        self._next_ns[what] = stamp_ns + round(period_s * 1e9)
        return True


def _fill_floats(target: array[float], values: np.ndarray) -> None:
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if len(target) == flat.size:
        memoryview(target)[:] = flat.data
    else:
        del target[:]
        target.frombytes(flat.tobytes())
