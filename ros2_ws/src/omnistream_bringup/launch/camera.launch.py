"""A USB camera through v4l2_camera, and the perception node behind it.

ros2 launch omnistream_bringup camera.launch.py device:=/dev/video0 rviz:=true
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

FORWARDED = (
    ("checkpoint", "omnistream-tiny", "bundled checkpoint, folder or hub id"),
    ("overlay", "base.yaml", "file in config/ whose parameters replace those of base.yaml"),
    ("rviz", "false", "show everything in RViz"),
)


def generate_launch_description():
    """The included description comes first: it sets the transport profile for the driver too."""
    perception = PathJoinSubstitution([FindPackageShare("omnistream_bringup"), "launch", "perception.launch.py"])
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=value, description=text) for name, value, text in FORWARDED),
            DeclareLaunchArgument("device", default_value="/dev/video0", description="video device of the camera"),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(perception),
                launch_arguments=[(name, LaunchConfiguration(name)) for name, _, _ in FORWARDED],
            ),
            Node(
                package="v4l2_camera",
                executable="v4l2_camera_node",
                name="camera",
                parameters=[
                    {
                        "video_device": LaunchConfiguration("device"),
                        "image_size": [640, 480],
                        "camera_frame_id": "camera_optical_frame",
                    }
                ],
                output="screen",
            ),
        ]
    )
