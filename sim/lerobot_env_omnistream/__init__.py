"""robosuite as LeRobot environments: ``--env.type=robosuite --env.task=Lift``.

LeRobot imports this package by the name of its distribution; importing it registers the environment type.
"""

from lerobot_env_omnistream.config import RobosuiteEnvConfig
from lerobot_env_omnistream.errors import SimError

__all__ = ["RobosuiteEnvConfig", "SimError"]
