"""robosuite and Meta-World as LeRobot environments: ``--env.type=robosuite --env.task=Lift``.

LeRobot imports this package by the name of its distribution; importing it registers the environment types.
"""

from lerobot_env_omnistream.config import RobosuiteEnvConfig
from lerobot_env_omnistream.errors import SimError
from lerobot_env_omnistream.metaworld import MetaworldEnvConfig

__all__ = ["MetaworldEnvConfig", "RobosuiteEnvConfig", "SimError"]
