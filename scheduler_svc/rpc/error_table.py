"""How the errors of this service look to a client."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import grpc

from meshkit.rpc.failure import ErrorTable, Failure, PreconditionViolation, invalid_field
from meshkit.rpc.filtering import FilterError, filter_failure
from scheduler_svc.domain.errors import (
    ArtifactDamaged,
    ArtifactNotFound,
    ContextExceeded,
    DatasetNotFound,
    DatasetNotReady,
    DeviceUnfit,
    EstimateUnavailable,
    EtagMismatch,
    FilesIncomplete,
    HistoryUnavailable,
    IllegalTransition,
    InvalidField,
    JobInUse,
    JobNotFound,
    JobTooLarge,
    JoinSecretInvalid,
    ModelNotFound,
    ModelNotReady,
    QuotaExceeded,
    RecipeUnavailable,
    RequestIdReused,
    SchedulerStopping,
    SequenceAhead,
    SourceUnfit,
    StaleAttempt,
    TooManyWatches,
    WorkerNotFound,
)

_CODE = grpc.StatusCode
_GB = 10**9


def _not_found(kind: str, identifier: str) -> Failure:
    return Failure(
        _CODE.NOT_FOUND,
        f"{kind.upper()}_NOT_FOUND",
        f"there is no {kind} {identifier} that you may see; list what there is, or check the id",
        {f"{kind}_id": identifier},
    )


def _not_ready(kind: str, identifier: str, state: str) -> Failure:
    return _precondition(
        f"{kind.upper()}_NOT_READY",
        f"{kind} {identifier} is {state}: it must be READY to train from",
        identifier,
        {f"{kind}_id": identifier, "state": state},
    )


def _precondition(reason: str, message: str, subject: str, metadata: dict[str, str]) -> Failure:
    return Failure(
        _CODE.FAILED_PRECONDITION,
        reason,
        message,
        metadata,
        precondition_violations=(PreconditionViolation(reason, subject, message),),
    )


def _illegal_transition(error: IllegalTransition) -> Failure:
    allowed = ", ".join(error.allowed)
    hint = f"it can from {allowed}" if allowed else "it cannot from any state"
    return _precondition(
        "JOB_STATE_CONFLICT",
        f"the job is {error.state} and cannot {error.action}; {hint}",
        "job",
        {"state": error.state, "allowed": allowed},
    )


def _request_id_reused(error: RequestIdReused) -> Failure:
    return Failure(
        _CODE.INVALID_ARGUMENT,
        "REQUEST_ID_REUSED",
        f"request_id {error.request_id} belongs to another request of yours; use a new one",
        {"field": "request_id", "request_id": error.request_id},
    )


def _etag_mismatch(error: EtagMismatch) -> Failure:
    return Failure(
        _CODE.ABORTED,
        "ETAG_MISMATCH",
        f"it was changed meanwhile: its etag is {error.current}, not {error.etag}; read it again and repeat the change",
        {"field": "etag", "etag": error.etag, "current": error.current},
    )


def _fenced(error: StaleAttempt) -> Failure:
    return Failure(
        _CODE.ABORTED,
        "ATTEMPT_FENCED",
        f"attempt {error.attempt} of job {error.job_id} is not the job's any more: end its training process",
        {"job_id": error.job_id, "attempt": str(error.attempt)},
    )


def _device_unfit(error: DeviceUnfit) -> Failure:
    return _precondition(
        "DEVICE_UNFIT",
        f"no trainer of class {error.device_class} can train 4-bit layers ({error.problem}); "
        "set quantization.type to NONE or choose another device_class",
        error.device_class,
        {"device_class": error.device_class, "problem": error.problem},
    )


def _source_unfit(error: SourceUnfit) -> Failure:
    return _precondition("SOURCE_UNFIT", str(error), error.job_id, {"job_id": error.job_id, "problem": error.problem})


def _job_in_use(error: JobInUse) -> Failure:
    return _precondition(
        "JOB_IN_USE",
        f"job {error.dependent}, which is not final, reads what job {error.job_id} has made: stop it, or wait for it",
        error.job_id,
        {"job_id": error.job_id, "dependent_job_id": error.dependent},
    )


def _job_too_large(error: JobTooLarge) -> Failure:
    parts = ", ".join(
        f"{part.lower().replace('_', ' ')} {size / _GB:.2f}" for part, size in _largest_first(error.parts)
    )
    wanted = ", ".join(f"{name} {value}" for name, value in error.would_fit.items())
    mend = f"it would fit with {wanted}" if wanted else "train a smaller model, or on a larger device"
    return _precondition(
        "JOB_TOO_LARGE",
        f"the job needs at least {error.needed / _GB:.2f} GB ({parts}), and the largest {error.device_class} trainer, "
        f"{error.trainer}, has {error.available / _GB:.2f} GB: {mend}; see EstimateTrainingJob",
        error.device_class,
        {
            "device_class": error.device_class,
            "needed_bytes": str(error.needed),
            "available_bytes": str(error.available),
            "trainer": error.trainer,
            **{f"{part.lower()}_bytes": str(size) for part, size in error.parts.items()},
            **{name: str(value) for name, value in error.would_fit.items()},
        },
    )


def _largest_first(parts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(parts.items(), key=lambda pair: -pair[1])


def _context_exceeded(error: ContextExceeded) -> Failure:
    mend = f"lower sampling.max_frames to {error.max_frames}" if error.max_frames else error.remedy
    samples = ", ".join(error.samples)
    return _precondition(
        "CONTEXT_EXCEEDED",
        f"the frames of up to {error.rows} rows, such as {samples}, are more than the {error.context_length} tokens "
        f"that the model takes, the longest {error.tokens}: {mend}, or leave such rows out",
        "dataset_id",
        {
            "tokens": str(error.tokens),
            "context_length": str(error.context_length),
            "rows": str(error.rows),
            "samples": samples,
            "max_frames": str(error.max_frames),
        },
    )


def _recipe_unavailable(error: RecipeUnavailable) -> Failure:
    return _precondition(
        "RECIPE_UNAVAILABLE",
        f"no known trainer offers {error.recipe}; start one with TRAINER_RECIPES=rehearsal, or leave it out",
        error.recipe,
        {"recipe": error.recipe},
    )


def _quota_exceeded(error: QuotaExceeded) -> Failure:
    what = {"queued_jobs": "jobs waiting", "storage_bytes": "bytes stored"}[error.limit_name]
    mend = {
        "queued_jobs": "wait until one has started, or stop one",
        "storage_bytes": "delete jobs whose artifacts and checkpoints nobody needs",
    }[error.limit_name]
    return Failure(
        _CODE.RESOURCE_EXHAUSTED,
        "QUOTA_EXCEEDED",
        f"you have {error.used} {what} and may have {error.limit}: {mend}, or ask an admin for more",
        {"quota": error.limit_name, "limit": str(error.limit), "used": str(error.used)},
        retry_after=error.retry_after,
    )


def _sequence_ahead(error: SequenceAhead) -> Failure:
    return Failure(
        _CODE.OUT_OF_RANGE,
        "SEQUENCE_AHEAD",
        f"after_sequence {error.after_sequence} is beyond the job's newest event, {error.newest}: start from that",
        {"after_sequence": str(error.after_sequence), "newest": str(error.newest)},
    )


def _files_incomplete(error: FilesIncomplete) -> Failure:
    return _precondition(
        "FILES_INCOMPLETE", f"{error.path} {error.problem}", error.path, {"path": error.path, "problem": error.problem}
    )


def _artifact_not_found(error: ArtifactNotFound) -> Failure:
    return Failure(
        _CODE.NOT_FOUND,
        "ARTIFACT_NOT_FOUND",
        f"job {error.job_id} is {error.state} and has no artifact; it has one once it is COMPLETED, or STOPPED in time",
        {"job_id": error.job_id, "state": error.state},
    )


def _artifact_damaged(error: ArtifactDamaged) -> Failure:
    return Failure(
        _CODE.DATA_LOSS,
        "ARTIFACT_DAMAGED",
        f"{error.path} of job {error.job_id} is not what was published; tell the operator",
        {"job_id": error.job_id, "path": error.path},
    )


ERROR_TABLE: ErrorTable = {
    FilterError: filter_failure,
    InvalidField: lambda error: invalid_field(error.field, error.description),
    JobNotFound: lambda error: _not_found("job", error.job_id),
    WorkerNotFound: lambda error: _not_found("worker", error.worker_id),
    ModelNotFound: lambda error: _not_found("model", error.model_id),
    DatasetNotFound: lambda error: _not_found("dataset", error.dataset_id),
    ModelNotReady: lambda error: _not_ready("model", error.model_id, error.state),
    DatasetNotReady: lambda error: _not_ready("dataset", error.dataset_id, error.state),
    ArtifactNotFound: _artifact_not_found,
    ArtifactDamaged: _artifact_damaged,
    DeviceUnfit: _device_unfit,
    JobTooLarge: _job_too_large,
    ContextExceeded: _context_exceeded,
    EstimateUnavailable: lambda error: _precondition(
        "ESTIMATE_UNAVAILABLE",
        f"the layers of model {error.model_id} are not known: it was registered before they were counted, or has none "
        "of the usual names; upload it again",
        error.model_id,
        {"model_id": error.model_id},
    ),
    RecipeUnavailable: _recipe_unavailable,
    SourceUnfit: _source_unfit,
    JobInUse: _job_in_use,
    QuotaExceeded: _quota_exceeded,
    RequestIdReused: _request_id_reused,
    IllegalTransition: _illegal_transition,
    EtagMismatch: _etag_mismatch,
    StaleAttempt: _fenced,
    FilesIncomplete: _files_incomplete,
    SequenceAhead: _sequence_ahead,
    JoinSecretInvalid: lambda _: Failure(
        _CODE.UNAUTHENTICATED, "JOIN_SECRET_INVALID", "the join secret is not this mesh's; ask its operator for it"
    ),
    SchedulerStopping: lambda error: Failure(
        _CODE.UNAVAILABLE, "SERVER_STOPPING", str(error), retry_after=timedelta(seconds=1)
    ),
    HistoryUnavailable: lambda _: Failure(
        _CODE.UNAVAILABLE,
        "POSTGRES_UNAVAILABLE",
        "the database does not answer; watch again after the last sequence in a few seconds",
        retry_after=timedelta(seconds=2),
    ),
    TooManyWatches: lambda error: Failure(
        _CODE.RESOURCE_EXHAUSTED,
        "TOO_MANY_WATCHES",
        f"{error.limit} watches are open here, {error.whose}: end one, or try again later",
        {"limit": str(error.limit), "whose": error.whose},
        retry_after=timedelta(seconds=10),
    ),
}
