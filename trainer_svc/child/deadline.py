"""How long a training process may go without getting anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer_svc.qlora.messages import (
    CheckpointSaved,
    Completed,
    Message,
    Metrics,
    Progress,
    Started,
    Starting,
    Stopped,
)

_SHOWS_PROGRESS = (Starting, Started, Progress, Metrics, CheckpointSaved, Completed, Stopped)
_SLOWEST_STEPS = 10


class ProgressDeadline:
    """Moves on with every message that shows progress. Log lines show none: a child may breathe and not move.

    Loading gets its own limit. Once steps are made, the limit is never less than ten times the slowest step so far,
    so that a slow device is not taken for a stuck one.
    """

    def __init__(self, *, loading: float, training: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`loading`, `training`: seconds without progress."""
        self._loading = loading
        self._training = training
        self._clock = clock
        self._moved_at = clock()
        self._slowest_step = 0.0
        self._has_stepped = False
        self.phase = "starting"
        """What the child was last heard to be at."""

    @property
    def limit(self) -> float:
        """Seconds it may take from one sign of progress to the next."""
        if not self._has_stepped:
            return self._loading
        return max(self._training, _SLOWEST_STEPS * self._slowest_step)

    @property
    def remaining(self) -> float:
        """Seconds left, below zero when overdue."""
        return self._moved_at + self.limit - self._clock()

    def note(self, message: Message) -> None:
        """Takes a message of the child into account."""
        if not isinstance(message, _SHOWS_PROGRESS):
            return
        now = self._clock()
        if isinstance(message, Starting):
            self.phase = message.phase
        if isinstance(message, Progress):
            if self._has_stepped:
                self._slowest_step = max(self._slowest_step, now - self._moved_at)
            self._has_stepped = True
            self.phase = f"step {message.step}"
        self._moved_at = now

    def postpone(self) -> None:
        """Starts the time anew: it was we who did not read."""
        self._moved_at = self._clock()
