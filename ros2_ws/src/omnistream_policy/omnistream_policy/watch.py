"""How old the newest of each input is. No ROS. Seconds are of a monotonic clock, stamps of the robot's clock."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Watch:
    """Watches inputs by the topic they come on."""

    topics: tuple[str, ...]
    _came_s: dict[str, float] = field(default_factory=dict)
    _delays_s: dict[str, float] = field(default_factory=dict)
    _stamps_ns: dict[str, int] = field(default_factory=dict)

    def heard(self, topic: str, now_s: float, stamp_ns: int, clock_ns: int = 0) -> None:
        """A message came. One with the stamp of its predecessor, as a camera that hangs repeats it, is nothing new.

        Args:
            stamp_ns: of its header; 0 for none.
            clock_ns: what the clock of stamps says; 0 for none yet. Where a stamp is ahead of it, by another clock, age
                counts from arrival.
        """
        if stamp_ns == 0 or self._stamps_ns.get(topic) != stamp_ns:
            self._came_s[topic] = now_s
            self._delays_s[topic] = max(0.0, (clock_ns - stamp_ns) / 1e9) if stamp_ns else 0.0
        self._stamps_ns[topic] = stamp_ns

    def forget(self) -> None:
        """Every input must be heard of again; a stamp known from before is still nothing new."""
        self._came_s.clear()

    def silence_s(self, topic: str, now_s: float) -> float:
        """Since the last news came; infinity before the first."""
        return now_s - self._came_s.get(topic, -float("inf"))

    def age_s(self, topic: str, now_s: float) -> float:
        """Since the last news was stamped; infinity before the first."""
        return self.silence_s(topic, now_s) + self._delays_s.get(topic, 0.0)

    def complaint(self, now_s: float, max_age_s: float) -> str:
        """A sentence on the input whose newest is oldest; "" if all are fresh."""
        oldest = max(self.topics, key=lambda topic: self.age_s(topic, now_s))
        age_s, silence_s = self.age_s(oldest, now_s), self.silence_s(oldest, now_s)
        if age_s <= max_age_s:
            return ""
        if silence_s == float("inf"):
            return f"nothing on {oldest} yet"
        if silence_s > max_age_s:
            return f"nothing new on {oldest} for {silence_s:.2f} s (max_age_s {max_age_s:g})"
        return f"the newest on {oldest} was stamped {age_s:.2f} s ago (max_age_s {max_age_s:g})"
