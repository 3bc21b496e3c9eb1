"""A trained LeRobot policy as a ROS 2 node: the one package of the workspace that knows LeRobot."""
