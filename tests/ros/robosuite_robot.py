"""Run as a process: robosuite's Lift as the robot of the policy node.

robosuite_robot.py OUT STEPS    publishes both cameras and the state at 20 Hz, steps the world with each command that
comes, and after STEPS of them leaves in OUT what it was commanded and what followed.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from ros_harness import image_message
from sensor_msgs.msg import Image
from std_msgs.msg import Float64MultiArray

from lerobot_env_omnistream import RobosuiteEnvConfig
from lerobot_env_omnistream.env import RobosuiteEnv


class RobosuiteRobot(Node):
    """One world, stepped by commands."""

    def __init__(self) -> None:
        super().__init__("robosuite_robot")
        self.env = RobosuiteEnv(RobosuiteEnvConfig(task="Lift", image_height_px=48, image_width_px=64))
        self.observation, _ = self.env.reset(seed=0)
        self.states, self.actions = [self.observation["agent_pos"]], []
        cameras = self.env.config.cameras
        self.images = {c: self.create_publisher(Image, f"{c}/image_raw", qos_profile_sensor_data) for c in cameras}
        self.state = self.create_publisher(Float64MultiArray, "joint_states", 10)
        self.create_subscription(Float64MultiArray, "/policy_node/command", self.on_command, 1)
        self.create_timer(1 / 20, self.publish)

    def publish(self) -> None:
        stamp_ns = time.time_ns()
        for camera, publisher in self.images.items():
            publisher.publish(image_message(self.observation["pixels"][camera], stamp_ns))
        self.state.publish(Float64MultiArray(data=self.observation["agent_pos"].astype(float).tolist()))

    def on_command(self, message: Float64MultiArray) -> None:
        self.actions.append(np.array(message.data))
        self.observation = self.env.step(self.actions[-1])[0]
        self.states.append(self.observation["agent_pos"])


def main() -> None:
    out, steps = Path(sys.argv[1]), int(sys.argv[2])
    rclpy.init()
    robot = RobosuiteRobot()
    print("ready", flush=True)
    while len(robot.actions) < steps:
        rclpy.spin_once(robot, timeout_sec=0.05)
    out.write_bytes(pickle.dumps({"states": np.array(robot.states), "actions": np.array(robot.actions)}))
    robot.env.close()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
