"""What happens to a job, as its history tells it, and what a trainer reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum

from scheduler_svc.domain.job import FINAL_STATES, Job, JobState, Progress, StateReason
from scheduler_svc.domain.predictions import Predictions
from scheduler_svc.domain.queue_view import QueueStatus

MAX_LOG_BYTES = 4096
MAX_METRICS = 64
MAX_METRIC_NAME = 100


class LogLevel(IntEnum):
    """How much a log line weighs; the numbers are the contract's."""

    DEBUG = 1
    INFO = 2
    WARNING = 3
    ERROR = 4


class EventKind(StrEnum):
    """What an event tells of."""

    STATE_CHANGE = "state_change"
    PROGRESS = "progress"
    METRICS = "metrics"
    LOG = "log"
    CHECKPOINT = "checkpoint"
    PREDICTIONS = "predictions"


@dataclass(frozen=True, slots=True)
class StateChange:
    """The job changed its state."""

    source: JobState | None
    target: JobState
    reason: StateReason
    message: str


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """What was measured at one optimizer step."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line was logged."""

    level: LogLevel
    text: str


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint was saved."""

    step: int
    size_bytes: int


EventBody = StateChange | Progress | MetricPoint | LogLine | CheckpointSaved | Predictions


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event as it is recorded."""

    sequence: int
    create_time: datetime
    attempt: int
    """0 where no attempt is concerned."""
    body: EventBody

    @property
    def makes_final(self) -> bool:
        """True for the last event of a job."""
        return isinstance(self.body, StateChange) and self.body.target in FINAL_STATES


@dataclass(frozen=True, slots=True)
class Started:
    """The training process made its first step."""

    total_steps: int


ReportBody = Started | Progress | MetricPoint | LogLine | Predictions


@dataclass(frozen=True, slots=True)
class Report:
    """One numbered report of an attempt."""

    number: int
    """From 1; known by it when it is sent again."""
    body: ReportBody


@dataclass(frozen=True, slots=True)
class Digest:
    """What a batch of reports comes to."""

    has_started: bool
    progress: Progress | None
    """The newest, if any."""
    bodies: tuple[EventBody, ...]
    """Events to record, in order: all but progress, of which the newest only."""
    last_number: int


def digest_reports(reports: Iterable[Report], recorded: int, present: Progress) -> Digest:
    """Returns what is new in the reports after number `recorded`: known ones are dropped, progress is coalesced.

    `present` is the progress on record: a report that only says that training started keeps its figures.
    """
    has_started = False
    progress: Progress | None = None
    bodies: list[EventBody] = []
    last = recorded
    for report in reports:
        if report.number <= last:
            continue
        last = report.number
        match report.body:
            case Started(total_steps):
                has_started = True
                progress = _with_total(progress or present, total_steps)
            case Progress():
                progress = report.body
            case MetricPoint() | LogLine() | Predictions() as body:
                bodies.append(body)
    if progress is not None:
        bodies.append(progress)
    return Digest(has_started, progress, tuple(bodies), last)


WatchUpdate = Job | JobEvent | QueueStatus


@dataclass(frozen=True, slots=True)
class WatchMessage:
    """One message of a watch."""

    sequence: int
    """All events up to here are told."""
    update: WatchUpdate | None
    """None for a heartbeat."""
    queue: QueueStatus | None = None
    """Beside a job that waits: where in the queue it is, if that can be told."""


def _with_total(progress: Progress, total_steps: int) -> Progress:
    return Progress(progress.phase, progress.step, total_steps, progress.epoch, progress.fraction, progress.loss)
