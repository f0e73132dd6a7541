"""What can go wrong in the scheduler's own terms; `rpc/error_table.py` says how a client sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta


class SchedulerError(Exception):
    """Base of the errors below."""


class JobNotFound(SchedulerError):
    """The job does not exist, or is not the caller's: nobody is told which."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id}")
        self.job_id = job_id


class WorkerNotFound(SchedulerError):
    """No worker of that id is known."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"no worker {worker_id}")
        self.worker_id = worker_id


class ModelNotFound(SchedulerError):
    """The model does not exist, or the caller may not read it."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"no model {model_id}")
        self.model_id = model_id


class DatasetNotFound(SchedulerError):
    """The dataset does not exist, or the caller may not read it."""

    def __init__(self, dataset_id: str) -> None:
        super().__init__(f"no dataset {dataset_id}")
        self.dataset_id = dataset_id


class ArtifactNotFound(SchedulerError):
    """The job has no artifact, or none yet."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id}, {state}, has no artifact")
        self.job_id = job_id
        self.state = state


class ModelNotReady(SchedulerError):
    """The model cannot be trained from in its state."""

    def __init__(self, model_id: str, state: str) -> None:
        super().__init__(f"model {model_id} is {state}")
        self.model_id = model_id
        self.state = state


class DatasetNotReady(SchedulerError):
    """The dataset cannot be trained from in its state."""

    def __init__(self, dataset_id: str, state: str) -> None:
        super().__init__(f"dataset {dataset_id} is {state}")
        self.dataset_id = dataset_id
        self.state = state


class DeviceUnfit(SchedulerError):
    """Every known trainer of the device class lacks what the job needs."""

    def __init__(self, device_class: str, problem: str) -> None:
        super().__init__(f"no trainer of class {device_class} can do it: {problem}")
        self.device_class = device_class
        self.problem = problem


class JobTooLarge(SchedulerError):
    """No registered trainer of the device class has as much memory as the job takes at the least."""

    def __init__(self, device_class: str, needed: int, available: int, trainer: str, parts: Mapping[str, int]) -> None:
        super().__init__(f"it needs {needed} bytes, and {trainer} has {available}")
        self.device_class = device_class
        self.needed = needed
        self.available = available
        """What the largest of them has."""
        self.trainer = trainer
        self.parts = parts
        """Bytes of `needed` by what takes them."""
        self.would_fit: Mapping[str, int | str] = {}
        """Values of parameters, none as asked, with which it would; empty where none would."""


class ContextExceeded(SchedulerError):
    """The frames of some rows alone are more tokens than the model takes."""

    def __init__(self, tokens: int, context_length: int, rows: int, samples: Sequence[str], max_frames: int) -> None:
        super().__init__(f"{rows} rows exceed {context_length} tokens: up to {tokens}")
        self.tokens = tokens
        """Of the longest row."""
        self.context_length = context_length
        self.rows = rows
        """At most so many: of rows alike in size the longest is known."""
        self.samples = tuple(samples)
        """Surely among them."""
        self.max_frames = max_frames
        """With so many, or fewer, they do not; 0 where that alone does not help."""
        self.remedy = ""
        """What helps then."""


class EstimateUnavailable(SchedulerError):
    """The catalog has not counted the model's layers."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"the layers of {model_id} are not known")
        self.model_id = model_id


class RecipeUnavailable(SchedulerError):
    """No trainer that is there offers the recipe, and none can be expected to."""

    def __init__(self, recipe: str) -> None:
        super().__init__(f"no trainer offers {recipe}")
        self.recipe = recipe


class SourceUnfit(SchedulerError):
    """A job whose result is not what another job could begin with, or be read as."""

    def __init__(self, job_id: str, problem: str, action: str) -> None:
        super().__init__(f"job {job_id} {problem} and cannot {action}")
        self.job_id = job_id
        self.problem = problem
        self.action = action


class JobInUse(SchedulerError):
    """A job whose result a live job reads."""

    def __init__(self, job_id: str, dependent: str) -> None:
        super().__init__(f"job {job_id} is the source of {dependent}")
        self.job_id = job_id
        self.dependent = dependent


class QuotaExceeded(SchedulerError):
    """The user has as much as their quota allows."""

    def __init__(self, limit_name: str, limit: int, used: int, retry_after: timedelta | None = None) -> None:
        super().__init__(f"{limit_name}: {used} of {limit} used")
        self.limit_name = limit_name
        self.limit = limit
        self.used = used
        self.retry_after = retry_after
        """When there will probably be room again; None when that cannot be known."""


class EtagMismatch(SchedulerError):
    """Somebody has changed it since the caller read it."""

    def __init__(self, etag: str, current: str) -> None:
        super().__init__(f"etag {etag} is not the current {current}")
        self.etag = etag
        self.current = current


class InvalidField(SchedulerError):
    """A request field that cannot be taken; `field` is its path in the request."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class RequestIdReused(SchedulerError):
    """The request id belongs to an earlier request with another body."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id {request_id} was used for another request")
        self.request_id = request_id


class IllegalTransition(SchedulerError):
    """The job cannot be moved as asked from the state that it is in."""

    def __init__(self, state: str, action: str, allowed: Sequence[str]) -> None:
        super().__init__(f"a job that is {state} cannot {action}")
        self.state = state
        self.action = action
        self.allowed = tuple(allowed)
        """The states from which it could."""


class StaleAttempt(SchedulerError):
    """The attempt is not the job's any more: another one runs, or the job is final or gone."""

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} of job {job_id} is fenced")
        self.job_id = job_id
        self.attempt = attempt


class FilesIncomplete(SchedulerError):
    """A file that should be in the object store is missing or differs."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class ArtifactDamaged(SchedulerError):
    """A published file is not what its record says: the object store lost or changed it."""

    def __init__(self, job_id: str, path: str) -> None:
        super().__init__(f"artifact of {job_id}: {path} is damaged")
        self.job_id = job_id
        self.path = path


class SequenceAhead(SchedulerError):
    """A watch asked to go on after an event that has not happened."""

    def __init__(self, after_sequence: int, newest: int) -> None:
        super().__init__(f"after_sequence {after_sequence} is beyond {newest}")
        self.after_sequence = after_sequence
        self.newest = newest


class JoinSecretInvalid(SchedulerError):
    """A trainer that does not know the mesh's join secret."""


class SchedulerStopping(SchedulerError):
    """This replica is shutting down; another one, or the same a moment later, goes on."""


class HistoryUnavailable(SchedulerError):
    """The events of a watched job could not be read for long: the database does not answer this replica."""


class TooManyWatches(SchedulerError):
    """As many watches are open as may be."""

    def __init__(self, limit: int, *, whose: str) -> None:
        super().__init__(f"{limit} watches are open, {whose}")
        self.limit = limit
        self.whose = whose
