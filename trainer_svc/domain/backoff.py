"""How long to wait before trying again."""

from __future__ import annotations

import random


class Backoff:
    """Exponential delays with full jitter: many trainers that lost one scheduler do not come back in one moment."""

    def __init__(
        self, *, first: float = 0.2, longest: float = 15.0, random_source: random.Random | None = None
    ) -> None:
        """Delays lie between half of and the whole of first, 2 first, 4 first … up to `longest` seconds."""
        self._first = first
        self._longest = longest
        # Jitter is no secret: the ordinary generator is right for it.
        self._random = random_source or random.Random()  # noqa: S311
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return self._failures

    def next_delay(self) -> float:
        """Counts one more failure and returns the seconds to wait."""
        ceiling = min(self._longest, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return ceiling * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Counts from the beginning again: something worked."""
        self._failures = 0
