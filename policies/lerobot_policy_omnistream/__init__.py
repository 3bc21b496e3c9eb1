"""LeRobot policies on a frozen OmniStream backbone: ``--policy.type=omnistream``.

LeRobot imports this package by the name of its distribution; importing it registers the policy type.
"""

from lerobot_policy_omnistream.configuration_omnistream import OmnistreamConfig
from lerobot_policy_omnistream.errors import PolicyError

__all__ = ["OmnistreamConfig", "PolicyError"]
