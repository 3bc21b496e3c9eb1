"""Where predictions go: videos, a point cloud, a trajectory, a Rerun recording, a picture of it all.

Each kind stands in a module of its own and loads its libraries there: ``sinks.video`` (DepthVideo, FeaturePcaVideo),
``sinks.points`` (PointCloud), ``sinks.trajectory`` (Trajectory), ``sinks.rerun_sink`` (RerunRecording),
``sinks.summary`` (Summary).
"""

from omnistream_core.sinks.base import Sink

__all__ = ["Sink"]
