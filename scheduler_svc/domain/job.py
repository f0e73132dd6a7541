"""A training job: its states, why it is in them, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from scheduler_svc.domain.ids import JobId, UserId, WorkerId
from scheduler_svc.domain.parameters import TrainingParameters

MAX_MESSAGE_BYTES = 1024


class JobState(StrEnum):
    """Where a job is in its life; the names are those of the contract without the prefix `JOB_STATE_`."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    COMPLETED = "COMPLETED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


ACTIVE_STATES = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})
"""A trainer has the job."""
FINAL_STATES = frozenset({JobState.COMPLETED, JobState.STOPPED, JobState.FAILED})


class StateReason(StrEnum):
    """Why a job is in its state; the names are those of the contract without the prefix `STATE_REASON_`."""

    UNSPECIFIED = "UNSPECIFIED"
    LEASE_LOST = "LEASE_LOST"
    PREEMPTED = "PREEMPTED"
    CRASHED = "CRASHED"
    STALLED = "STALLED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BAD_DATA = "BAD_DATA"
    NON_FINITE_LOSS = "NON_FINITE_LOSS"
    MODEL_UNSUPPORTED = "MODEL_UNSUPPORTED"
    QUARANTINED = "QUARANTINED"
    RETRIES_SPENT = "RETRIES_SPENT"
    STOP_REQUESTED = "STOP_REQUESTED"
    STOP_GRACE_SPENT = "STOP_GRACE_SPENT"
    DEVICE_UNFIT = "DEVICE_UNFIT"
    INTERNAL = "INTERNAL"
    PAUSED = "PAUSED"
    RESUMED = "RESUMED"
    RETRY_REQUESTED = "RETRY_REQUESTED"
    EARLY_STOPPED = "EARLY_STOPPED"
    BAD_PARAMETERS = "BAD_PARAMETERS"


class Recipe(StrEnum):
    """A way to train; the names are those of the contract without the prefix `RECIPE_`."""

    QLORA = "QLORA"
    REHEARSAL = "REHEARSAL"
    EVALUATION = "EVALUATION"
    MERGE = "MERGE"


class DeviceClass(StrEnum):
    """A kind of hardware. ANY stands for the contract's UNSPECIFIED in a job."""

    ANY = "ANY"
    CPU = "CPU"
    CUDA = "CUDA"
    JETSON = "JETSON"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is."""

    phase: str = ""
    step: int = 0
    """Optimizer steps made."""
    total_steps: int = 0
    """0 while unknown."""
    epoch: float = 0.0
    fraction: float = 0.0
    """Share done: 0 to 1."""
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job needs of a trainer."""

    device_class: DeviceClass = DeviceClass.ANY
    device_count: int = 1
    device_memory_bytes: int = 0
    """Of each device; 0 for any."""
    recipe: Recipe = Recipe.QLORA
    is_4bit: bool = False
    """It computes in 4 bits."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its owner sees it, and its generation."""

    id: JobId
    owner_id: UserId
    name: str
    model_id: str
    dataset_id: str
    parameters: TrainingParameters
    needs: Needs
    priority: int
    """Goes before the owner's jobs of lower priority."""
    state: JobState
    reason: StateReason
    message: str
    generation: int
    """Counts how often the job was put into the queue."""
    attempt: int
    """Counts its launches; 0 before the first."""
    worker_id: WorkerId | None
    sequence: int
    """Sequence of the newest event."""
    create_time: datetime
    update_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    has_artifact: bool = False
    progress: Progress = field(default_factory=Progress)
    is_paused: bool = False
    revision: int = 1
    """Counts the changes of name and priority."""
    dataset_version: int = 0
    """0: submitted before versions were noted."""
    source_job_id: JobId | None = None
    """The job whose adapter it begins with; None for a training."""

    @property
    def etag(self) -> str:
        """Differs from that of the job with any other name or priority in its history."""
        return str(self.revision)

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class WakeUp:
    """Word for the trainers that a job waits, still to be published."""

    id: int
    job_id: JobId
    generation: int
    device_class: DeviceClass


@dataclass(frozen=True, slots=True)
class JobSubmission:
    """A checked request for a job."""

    id: JobId
    owner_id: UserId
    name: str
    model_id: str
    dataset_id: str
    parameters: TrainingParameters
    needs: Needs = field(default_factory=Needs)
    priority: int = 0
    dataset_version: int = 0
    source_job_id: JobId | None = None


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """A change of a job by its owner; None keeps a value."""

    name: str | None = None
    priority: int | None = None
    etag: str = ""
    """Of the job as the caller has seen it; empty to change it as it is."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which of a user's jobs to list; a condition that is None or empty holds for all."""

    name_parts: tuple[str, ...] = ()
    """Every one occurs in the name, whatever its case."""
    states: frozenset[JobState] | None = None
    model_id: str | None = None
    dataset_id: str | None = None
    model_id_not: tuple[str, ...] = ()
    dataset_id_not: tuple[str, ...] = ()
    name: str | None = None
    name_not: tuple[str, ...] = ()
    source_job_id: str | None = None
    """Of jobs that begin with what another has made; empty for those that do not."""
    source_job_id_not: tuple[str, ...] = ()
    is_empty: bool = False
    """The conditions contradict each other: nothing can match."""


def clean_text(text: str, max_bytes: int) -> str:
    """Returns text that a database can hold: no NUL, at most `max_bytes` of UTF-8, cut between characters."""
    encoded = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", errors="replace")
    return encoded[:max_bytes].decode("utf-8", errors="ignore")
