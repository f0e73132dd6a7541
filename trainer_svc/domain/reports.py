"""What a training process tells about itself, as the scheduler and watchers get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """The first optimizer step was made."""

    total_steps: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the attempt is."""

    phase: str = ""
    """What it is at, in a word or two."""
    step: int = 0
    total_steps: int = 0
    """0 while unknown."""
    epoch: float = 0.0
    fraction: float = 0.0
    """Share done, 0 to 1."""
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """What was measured at one step."""

    step: int
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the job's log."""

    level: str
    """`debug`, `info`, `warning` or `error`."""
    text: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one held-out sample."""

    sample_id: str
    question: str
    expected: str
    generated: str
    loss: float
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers of one evaluation."""

    step: int
    best: tuple[Prediction, ...]
    worst: tuple[Prediction, ...]


Report = TrainingStarted | Progress | MetricPoint | LogLine | Predictions


@dataclass(frozen=True, slots=True)
class NumberedReport:
    """A report with its place in the attempt, from 1, by which the scheduler records it once."""

    number: int
    report: Report
