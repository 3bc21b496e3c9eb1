"""A trained LeRobot policy on a robot whose camera and joint states are already there.

ros2 launch omnistream_policy policy.launch.py policy:=runs/lift/pretrained_model parameters:=$PWD/my_arm.yaml \
    camera:=front image:=/camera/color/image_raw command:=/arm_controller/joint_trajectory
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

DEFAULTS = PathJoinSubstitution([FindPackageShare("omnistream_policy"), "config", "policy.yaml"])
ARGUMENTS = (
    ("parameters", DEFAULTS, "YAML file of the robot whose parameters replace those of policy.yaml: joints, limits"),
    ("namespace", "", "of the node"),
    ("camera", "front", "camera of the policy that reads `image`; further ones read <camera>/image_raw"),
    ("image", "front/image_raw", "topic of its images"),
    ("joint_states", "joint_states", "topic of the robot's state"),
    ("command", "~/command", "topic of the commands"),
    ("autostart", "false", "true: command the robot at once; else when somebody configures and activates the node"),
    ("use_sim_time", "false", "true where /clock is the time: a simulator"),
)
GIVEN = {"policy": str, "autostart": bool, "use_sim_time": bool}  # parameters of the node; they go above the files


def generate_launch_description():
    """Arguments and the node."""
    values = {name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, kind in GIVEN.items()}
    image = [LaunchConfiguration("camera"), "/image_raw"]
    return LaunchDescription(
        [
            DeclareLaunchArgument("policy", description="folder or hub id of the trained policy"),
            *(DeclareLaunchArgument(name, default_value=value, description=text) for name, value, text in ARGUMENTS),
            LifecycleNode(
                package="omnistream_policy",
                executable="policy_node",
                name="policy_node",
                namespace=LaunchConfiguration("namespace"),
                parameters=[DEFAULTS, LaunchConfiguration("parameters"), values],
                remappings=[
                    (image, LaunchConfiguration("image")),
                    ([*image, "/compressed"], [LaunchConfiguration("image"), "/compressed"]),
                    ("joint_states", LaunchConfiguration("joint_states")),
                    ("~/command", LaunchConfiguration("command")),
                ],
                output="screen",
            ),
        ]
    )
