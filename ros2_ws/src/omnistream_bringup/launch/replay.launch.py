"""A recording, played by the replay node into the perception node.

ros2 launch omnistream_bringup replay.launch.py path:=/data/walk.mcap rate:=0.5 rviz:=true
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

FORWARDED = (
    ("checkpoint", "omnistream-tiny", "bundled checkpoint, folder or hub id"),
    ("overlay", "base.yaml", "file in config/ whose parameters replace those of base.yaml"),
    ("rviz", "false", "show everything in RViz"),
)
REPLAYED = (
    ("path", "", str, "bag, video or folder of images"),
    ("topic", "", str, "image topic of the bag; empty: the most likely one"),
    ("rate", "1.0", float, "speed of playing over speed of recording"),
    ("loop", "false", bool, "begin again at the end"),
    ("start_s", "0.0", float, "seconds left out at the beginning"),
    ("stop_s", "1000000.0", float, "second at which it ends"),
)


def generate_launch_description():
    """The player waits until the perception node listens."""
    perception = PathJoinSubstitution([FindPackageShare("omnistream_bringup"), "launch", "perception.launch.py"])
    declared = [*FORWARDED, *((name, value, text) for name, value, _, text in REPLAYED)]
    values = {name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, _, kind, _ in REPLAYED}
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=value, description=text) for name, value, text in declared),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(perception),
                launch_arguments=[
                    *((name, LaunchConfiguration(name)) for name, _, _ in FORWARDED),
                    ("use_sim_time", "true"),
                ],
            ),
            Node(
                package="omnistream_ros",
                executable="replay_node",
                name="replay_node",
                parameters=[values, {"wait_for_readers": 1}],
                output="screen",
            ),
        ]
    )
