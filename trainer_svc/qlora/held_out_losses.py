"""What a run's measurements on the held-out samples came to: which was best, and for how long none was better. Imports
no training library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class HeldOutLosses:
    """Part of every checkpoint: a run that goes on counts on."""

    best_step: int = 0
    """The first step with the lowest loss; 0 before any."""
    best_loss: float | None = None
    fallen_to: float | None = None
    """The loss that the next must undercut for patience to begin anew."""
    without_fall: int = 0
    """Measurements since."""

    def note(self, step: int, loss: float, min_delta: float) -> bool:
        """Takes a measurement in; returns whether its loss is the lowest so far."""
        if self.fallen_to is None or loss < self.fallen_to - min_delta:
            self.fallen_to, self.without_fall = loss, 0
        else:
            self.without_fall += 1
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.best_step, self.best_loss = step, loss
        return is_best

    def is_spent(self, patience: int) -> bool:
        """Whether so many measurements in a row brought nothing; never for a patience of 0."""
        return 0 < patience <= self.without_fall

    def in_words(self) -> str:
        """Why a run ends early."""
        return (
            f"the loss on the held-out samples has not fallen for {self.without_fall} measurements: "
            f"{self.best_loss:.4g} at step {self.best_step} was the lowest"
        )
