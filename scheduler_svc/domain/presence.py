"""How long a replica has been there without a break: before that, the silence of a trainer says nothing about it."""

from __future__ import annotations


class Presence:
    """Counts the time since a replica was last away; by a clock that its callers read, in seconds.

    Trainers that lost their scheduler come back within moments, but not in the very moment in which it is there again.
    A replica that has just begun, was frozen, or had no database therefore takes no job from anybody until it has
    been there for `needed` seconds, in which every trainer that lives has renewed its lease.
    """

    def __init__(self, needed: float, longest_gap: float) -> None:
        """`longest_gap`: between two notes, beyond which it counts as having been away."""
        self._needed = needed
        self._longest_gap = longest_gap
        self._begun_at: float | None = None
        self._noted_at = 0.0

    def note(self, now: float) -> None:
        """Notes that it is there."""
        if self._begun_at is None or now - self._noted_at > self._longest_gap:
            self._begun_at = now
        self._noted_at = now

    def lose(self) -> None:
        """Notes that it can do nothing: the time begins anew with the next note."""
        self._begun_at = None

    def missing(self, now: float) -> float:
        """Seconds until it has been there long enough; 0 when it has."""
        if self._begun_at is None:
            return self._needed
        return max(0.0, self._begun_at + self._needed - now)
