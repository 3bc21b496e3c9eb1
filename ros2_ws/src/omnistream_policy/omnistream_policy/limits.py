"""What keeps a command within reason. No ROS. Shape letters: A numbers of an action."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnistream_core.errors import ConfigError
from omnistream_policy.parameters import PolicySettings


@dataclass(frozen=True, kw_only=True)
class Limited:
    """A command that may be sent, and how many of its numbers had to be changed."""

    command_A: np.ndarray
    clipped: int
    slowed: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of each number, and of its change from one command to the next; the units are the command's."""

    low_A: np.ndarray
    high_A: np.ndarray
    max_change_A: np.ndarray

    @classmethod
    def of(cls, settings: PolicySettings, size: int) -> Limits:
        """
        Raises:
            ConfigError: as many limits as neither 1 nor ``size``.
        """
        values = {name: getattr(settings, name) for name in ("command_low", "command_high", "max_change_per_s")}
        for name, limits in values.items():
            if len(limits) not in (1, size):
                raise ConfigError(f"{name} has {len(limits)} numbers; the policy's action has {size}: give {size} or 1")
        low_A, high_A, change_A = (np.broadcast_to(np.array(limits, float), size) for limits in values.values())
        return cls(low_A=low_A, high_A=high_A, max_change_A=change_A / settings.rate_hz)

    def apply(self, wanted_A: np.ndarray, before_A: np.ndarray) -> Limited:
        """The command nearest to ``wanted_A`` that may follow ``before_A``.

        Coming from outside the bounds, the way back into them is taken at the limited speed too.
        """
        bounded_A = np.clip(wanted_A, self.low_A, self.high_A)
        command_A = np.clip(bounded_A, before_A - self.max_change_A, before_A + self.max_change_A)
        clipped, slowed = int((bounded_A != wanted_A).sum()), int((command_A != bounded_A).sum())
        return Limited(command_A=command_A, clipped=clipped, slowed=slowed)
