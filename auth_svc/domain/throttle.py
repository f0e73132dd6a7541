"""How fast passwords may be guessed: an exponential delay per account, a token bucket per address."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class ThrottlePolicy:
    """The delay of an account after failures."""

    free_failures: int
    """So many failures cost nothing: people mistype."""
    first_delay: timedelta
    """Delay after the next failure; each further one doubles it."""
    max_delay: timedelta
    """Bounds what a stranger who fails on purpose can cost the owner, who anyway stays in a live session."""
    forget_after: timedelta
    """Failures count for this long after the last one."""

    def delay_after(self, failures: int) -> timedelta:
        """Returns how long after its last failure an account with so many failures waits."""
        if failures <= self.free_failures:
            return timedelta(0)
        # The exponent is bounded first: 2 to the power of a counter that strangers drive would not fit a timedelta.
        factor: int = 2 ** min(failures - self.free_failures - 1, 30)
        return min(self.first_delay * factor, self.max_delay)


@dataclass(frozen=True, slots=True)
class AccountFailures:
    """The failures that count against an account."""

    count: int
    last_time: datetime


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether an account's password may be tried now."""

    retry_after: timedelta
    """Zero when it may."""
    counts_in_advance: bool = False
    """Count a failure before the password is checked, so that parallel guesses cannot share one turn."""

    @property
    def is_admitted(self) -> bool:
        return self.retry_after <= timedelta(0)


def judge_attempt(failures: AccountFailures | None, now: datetime, policy: ThrottlePolicy) -> Admission:
    """Decides whether a password may be tried; `now` is the database's clock."""
    if failures is None or now - failures.last_time >= policy.forget_after:
        return Admission(timedelta(0))
    wait = failures.last_time + policy.delay_after(failures.count) - now
    if wait > timedelta(0):
        return Admission(wait)
    # Below the free failures the owner may sign in from many places at once.
    return Admission(timedelta(0), counts_in_advance=failures.count >= policy.free_failures)


@dataclass(slots=True)
class Bucket:
    """A token bucket: `capacity` at once, then `per_second`. Times are seconds of a monotonic clock."""

    capacity: float
    per_second: float
    tokens: float
    updated_at: float

    def take(self, now: float) -> float:
        """Takes a token and returns 0, or returns the seconds until there will be one."""
        self._refill(now)
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.per_second

    def give_back(self, now: float) -> None:
        """Returns a token that turned out not to be owed."""
        self._refill(now)
        self.tokens = min(self.capacity, self.tokens + 1)

    def is_full(self, now: float) -> bool:
        """True when the bucket says no more than a new one would."""
        self._refill(now)
        return self.tokens >= self.capacity

    def _refill(self, now: float) -> None:
        self.tokens = min(self.capacity, self.tokens + max(0.0, now - self.updated_at) * self.per_second)
        self.updated_at = now
