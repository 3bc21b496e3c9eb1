"""The perception node alone, for a camera that is already running.

ros2 launch omnistream_bringup perception.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    ("checkpoint", "omnistream-tiny", "bundled checkpoint, folder or hub id"),
    ("overlay", "base.yaml", "file in config/ whose parameters replace those of base.yaml"),
    ("namespace", "", "of the node"),
    ("image", "image_raw", "topic of the images"),
    ("camera_info", "camera_info", "topic of their intrinsics"),
    ("autostart", "true", "false where a lifecycle manager configures and activates the node"),
    ("use_sim_time", "false", "true where /clock is the time: a replayed bag, a simulator"),
    ("rviz", "false", "show everything in RViz"),
)


def in_share(folder, name):
    """A file that this package has installed."""
    return PathJoinSubstitution([FindPackageShare("omnistream_bringup"), folder, name])


def generate_launch_description():
    """Arguments, transport profile, node, RViz."""
    profile = EnvironmentVariable(
        "FASTDDS_DEFAULT_PROFILES_FILE", default_value=in_share("config", "fastdds_profile.xml")
    )
    overrides = {name: LaunchConfiguration(name) for name in ("checkpoint", "autostart", "use_sim_time")}
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=value, description=text) for name, value, text in ARGUMENTS),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile),
            LifecycleNode(
                package="omnistream_ros",
                executable="perception_node",
                name="perception_node",
                namespace=LaunchConfiguration("namespace"),
                parameters=[
                    in_share("config", "base.yaml"),
                    in_share("config", LaunchConfiguration("overlay")),
                    overrides,
                ],
                remappings=[
                    ("image_raw", LaunchConfiguration("image")),
                    ("image_raw/compressed", [LaunchConfiguration("image"), "/compressed"]),
                    ("camera_info", LaunchConfiguration("camera_info")),
                ],
                output="screen",
            ),
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", in_share("rviz", "omnistream.rviz")],
                parameters=[{"use_sim_time": LaunchConfiguration("use_sim_time")}],
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
        ]
    )
