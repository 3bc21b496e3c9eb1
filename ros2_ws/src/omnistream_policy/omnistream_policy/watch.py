"""When each input was last heard of with something new. No ROS. Times are of a monotonic clock, seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Watch:
    """Watches inputs by the topic they come on."""

    topics: tuple[str, ...]
    _heard_s: dict[str, float] = field(default_factory=dict)
    _stamps_ns: dict[str, int] = field(default_factory=dict)

    def heard(self, topic: str, now_s: float, stamp_ns: int) -> None:
        """A message came. One with the stamp of its predecessor, as a camera that hangs repeats it, is nothing new."""
        if stamp_ns == 0 or self._stamps_ns.get(topic) != stamp_ns:
            self._heard_s[topic] = now_s
        self._stamps_ns[topic] = stamp_ns

    def forget(self) -> None:
        """Every input must be heard of again; a stamp known from before is still nothing new."""
        self._heard_s.clear()

    def age_s(self, topic: str, now_s: float) -> float:
        """Since the last news; infinity before the first."""
        return now_s - self._heard_s.get(topic, -float("inf"))

    def complaint(self, now_s: float, max_age_s: float) -> str:
        """A sentence on the input that has been silent longest; "" if all are fresh."""
        oldest = max(self.topics, key=lambda topic: self.age_s(topic, now_s))
        age_s = self.age_s(oldest, now_s)
        if age_s <= max_age_s:
            return ""
        if age_s == float("inf"):
            return f"nothing on {oldest} yet"
        return f"nothing new on {oldest} for {age_s:.2f} s (max_age_s {max_age_s:g})"
