"""A third run context: keeps what is reported, and can be told beforehand when to stop."""

from __future__ import annotations

from pathlib import Path

from trainer_svc.qlora.messages import Metrics, Progress, StopReason, TrainingUp
from trainer_svc.qlora.run_context import JobFolders


class RecordingRun:
    def __init__(self, model: Path, dataset: Path, out: Path) -> None:
        self.folders = JobFolders(model, dataset, out)
        self.messages: list[TrainingUp] = []
        self.stop_after: tuple[int, StopReason] | None = None
        self.stop_at_look: int | None = None
        """From `stop_after` on, how often it is asked in vain."""
        self.looks = 0
        self._steps = 0

    def report(self, message: TrainingUp) -> None:
        self.messages.append(message)
        if isinstance(message, Progress):
            self._steps = message.step

    def stop_requested(self) -> StopReason | None:
        if self.stop_after is None or self._steps < self.stop_after[0]:
            return None
        self.looks += 1
        return self.stop_after[1] if self.looks > (self.stop_at_look or 0) else None

    @property
    def last(self) -> TrainingUp:
        return self.messages[-1]

    def series(self, name: str) -> dict[int, float]:
        """One metric by step."""
        return {
            message.step: message.values[name]
            for message in self.messages
            if isinstance(message, Metrics) and name in message.values
        }
