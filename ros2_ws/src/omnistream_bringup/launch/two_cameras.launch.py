"""Two USB cameras, left/ and right/, as one batch of two streams in one perception node.

ros2 launch omnistream_bringup two_cameras.launch.py left:=/dev/video0 right:=/dev/video2
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

CAMERAS = (("left", "/dev/video0"), ("right", "/dev/video2"))
FORWARDED = (
    ("checkpoint", "omnistream-tiny", "bundled checkpoint, folder or hub id"),
    ("overlay", "two_cameras.yaml", "file in config/ whose parameters replace those of base.yaml"),
    ("rviz", "false", "show everything in RViz"),
)


def driver(name):
    """The driver of one camera in its own namespace."""
    parameters = {
        "video_device": LaunchConfiguration(name),
        "image_size": [640, 480],
        "camera_frame_id": f"{name}_optical_frame",
    }
    return Node(
        package="v4l2_camera",
        executable="v4l2_camera_node",
        name="camera",
        namespace=name,
        parameters=[parameters],
        output="screen",
    )


def generate_launch_description():
    """Perception first: it sets the transport profile for the drivers too."""
    perception = PathJoinSubstitution([FindPackageShare("omnistream_bringup"), "launch", "perception.launch.py"])
    devices = [(name, device, f"video device of the {name} camera") for name, device in CAMERAS]
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, value, text in (*FORWARDED, *devices)
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(perception),
                launch_arguments=[(name, LaunchConfiguration(name)) for name, _, _ in FORWARDED],
            ),
            *(driver(name) for name, _ in CAMERAS),
        ]
    )
