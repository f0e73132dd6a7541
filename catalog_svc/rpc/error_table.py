"""How the errors of this service look to a client."""

from __future__ import annotations

from datetime import timedelta

import grpc

from catalog_svc.domain.errors import (
    BatchTooLarge,
    ClipNotFound,
    DigestMismatch,
    EntryExists,
    EntryInUse,
    EntryNotFound,
    EtagMismatch,
    FileNotAllowed,
    FileTooLarge,
    ImportNotFound,
    ImportRunning,
    InvalidField,
    LengthMismatch,
    LocationExists,
    LocationInUse,
    LocationNotFound,
    NotQuarantinable,
    PreviewFailed,
    PreviewRefused,
    PreviewsBusy,
    PreviewUnavailable,
    QuotaExceeded,
    ReferenceBroken,
    RequestIdReused,
    SampleNotFound,
    SampleNotHeld,
    SecretsNotConfigured,
    ServiceStopping,
    SourceNotEnabled,
    SourceRefused,
    SourceUnavailable,
    StateConflict,
    StoredFileNotFound,
    TooManyFiles,
    TooManyImports,
    TooManyLocations,
    UploadIncomplete,
    UploadNotFound,
    UploadsBusy,
    UploadStalled,
)
from meshkit.rpc.failure import ErrorTable, Failure, FieldViolation, PreconditionViolation, invalid_field
from meshkit.rpc.filtering import FilterError, filter_failure


def _state_conflict(error: StateConflict) -> Failure:
    reason = f"{error.kind}_STATE_CONFLICT"
    return Failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        reason,
        str(error),
        {"state": error.state, "allowed": ",".join(error.allowed)},
        precondition_violations=(PreconditionViolation(reason, error.kind.lower(), str(error)),),
    )


def _in_use(error: EntryInUse) -> Failure:
    return Failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        "IN_USE",
        str(error),
        {"jobs": ",".join(error.job_ids), "jobs_of_others": str(error.others)},
        precondition_violations=(PreconditionViolation("IN_USE", error.kind.lower(), str(error)),),
    )


def _file_not_allowed(error: FileNotAllowed) -> Failure:
    return Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "FILE_NOT_ALLOWED",
        str(error),
        {"path": error.path, "problem": error.problem, "remedy": error.remedy},
        field_violations=(FieldViolation("path", f"{error.problem}; {error.remedy}", "FILE_NOT_ALLOWED"),),
    )


def _sample_not_held(error: SampleNotHeld) -> Failure:
    where = {"format": error.format, "row": str(error.row), "sample_id": error.sample_id, "field": error.field}
    return Failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        "SAMPLE_NOT_HELD",
        str(error),
        where,
        precondition_violations=(PreconditionViolation("SAMPLE_NOT_HELD", error.field, str(error)),),
    )


def _precondition(reason: str, subject: str, error: Exception) -> Failure:
    return Failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        reason,
        str(error),
        precondition_violations=(PreconditionViolation(reason, subject, str(error)),),
    )


def _source_refused(error: SourceRefused) -> Failure:
    return Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "SOURCE_REFUSED",
        str(error),
        {"cause": error.reason},
        field_violations=(FieldViolation("source", f"{error.message}; {error.remedy}", error.reason),),
    )


def _upload_incomplete(error: UploadIncomplete) -> Failure:
    return Failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        "UPLOAD_INCOMPLETE",
        str(error),
        {"missing_parts": ",".join(map(str, error.missing[:20])), "missing_count": str(len(error.missing))},
        precondition_violations=(PreconditionViolation("UPLOAD_INCOMPLETE", "upload", str(error)),),
    )


def _no_preview(error: Exception, reason: str, metadata: dict[str, str]) -> Failure:
    return Failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        reason,
        str(error),
        metadata,
        precondition_violations=(PreconditionViolation(reason, "preview", str(error)),),
    )


ERROR_TABLE: ErrorTable = {
    FilterError: filter_failure,
    InvalidField: lambda error: invalid_field(error.field, error.description),
    # Without the id: what is foreign and what is absent answer the same bytes.
    EntryNotFound: lambda error: Failure(grpc.StatusCode.NOT_FOUND, f"{error.kind}_NOT_FOUND", str(error)),
    EntryExists: lambda error: Failure(
        grpc.StatusCode.ALREADY_EXISTS, f"{error.kind}_EXISTS", str(error), {"name": error.name}
    ),
    StateConflict: _state_conflict,
    EntryInUse: _in_use,
    QuotaExceeded: lambda error: Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUOTA_EXCEEDED",
        str(error),
        {
            "quota": "storage_bytes",
            "limit": str(error.limit_bytes),
            "used": str(error.used_bytes),
            "wanted": str(error.wanted_bytes),
        },
    ),
    NotQuarantinable: lambda error: Failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        "NOT_QUARANTINABLE",
        str(error),
        {"issue": error.reason},
        precondition_violations=(PreconditionViolation("NOT_QUARANTINABLE", "dataset", str(error)),),
    ),
    RequestIdReused: lambda error: Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_ID_REUSED",
        str(error),
        field_violations=(FieldViolation("request_id", str(error), "REQUEST_ID_REUSED"),),
    ),
    EtagMismatch: lambda error: Failure(grpc.StatusCode.ABORTED, "ETAG_MISMATCH", str(error)),
    FileNotAllowed: _file_not_allowed,
    FileTooLarge: lambda error: Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "FILE_TOO_LARGE",
        str(error),
        {"path": error.path, "size_bytes": str(error.size_bytes), "limit_bytes": str(error.limit_bytes)},
    ),
    BatchTooLarge: lambda error: Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "BATCH_TOO_LARGE",
        str(error),
        {"path": error.path, "parts": str(error.part_count), "limit_parts": str(error.limit)},
    ),
    TooManyFiles: lambda error: Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_FILES", str(error), {"limit": str(error.limit)}
    ),
    StoredFileNotFound: lambda error: Failure(
        grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND", str(error), {"path": error.path}
    ),
    ClipNotFound: lambda error: Failure(grpc.StatusCode.NOT_FOUND, "CLIP_NOT_FOUND", str(error), {"path": error.path}),
    UploadNotFound: lambda error: Failure(grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND", str(error)),
    UploadIncomplete: _upload_incomplete,
    DigestMismatch: lambda error: Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "DIGEST_MISMATCH",
        str(error),
        {"path": error.path, "expected": error.expected, "found": error.found},
    ),
    LengthMismatch: lambda error: Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "LENGTH_MISMATCH",
        str(error),
        {"path": error.path, "expected": str(error.expected), "found": str(error.found)},
    ),
    SampleNotHeld: _sample_not_held,
    SampleNotFound: lambda error: Failure(
        grpc.StatusCode.NOT_FOUND, "SAMPLE_NOT_FOUND", str(error), {"sample_id": error.sample_id}
    ),
    PreviewUnavailable: lambda error: _no_preview(error, "PREVIEW_UNAVAILABLE", {}),
    PreviewRefused: lambda error: _no_preview(
        error, "PREVIEW_REFUSED", {"cause": error.cause, "problem": error.problem, "remedy": error.remedy}
    ),
    PreviewFailed: lambda error: _no_preview(error, "PREVIEW_FAILED", {"cause": error.cause}),
    PreviewsBusy: lambda error: Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "PREVIEWS_BUSY", str(error), retry_after=timedelta(seconds=2)
    ),
    UploadsBusy: lambda error: Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "UPLOADS_BUSY", str(error), retry_after=timedelta(seconds=5)
    ),
    UploadStalled: lambda error: Failure(
        grpc.StatusCode.DEADLINE_EXCEEDED, "UPLOAD_STALLED", str(error), {"seconds": f"{error.seconds:g}"}
    ),
    ServiceStopping: lambda error: Failure(
        grpc.StatusCode.UNAVAILABLE, "SERVICE_STOPPING", str(error), retry_after=timedelta(seconds=2)
    ),
    ImportNotFound: lambda error: Failure(grpc.StatusCode.NOT_FOUND, "IMPORT_NOT_FOUND", str(error)),
    ImportRunning: lambda error: _precondition("IMPORT_RUNNING", error.kind.lower(), error),
    TooManyImports: lambda error: Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_IMPORTS",
        str(error),
        {"limit": str(error.limit)},
        retry_after=timedelta(seconds=30),
    ),
    SourceRefused: _source_refused,
    SourceUnavailable: lambda error: Failure(
        grpc.StatusCode.UNAVAILABLE, "SOURCE_UNAVAILABLE", str(error), retry_after=timedelta(seconds=5)
    ),
    ReferenceBroken: lambda error: Failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        "REFERENCE_BROKEN",
        str(error),
        {"key": error.key, "cause": error.cause},
        precondition_violations=(PreconditionViolation("REFERENCE_BROKEN", "clip", str(error)),),
    ),
    SourceNotEnabled: lambda error: _precondition("SOURCE_NOT_ENABLED", error.source, error),
    LocationNotFound: lambda error: Failure(grpc.StatusCode.NOT_FOUND, "STORAGE_LOCATION_NOT_FOUND", str(error)),
    LocationExists: lambda error: Failure(
        grpc.StatusCode.ALREADY_EXISTS, "STORAGE_LOCATION_EXISTS", str(error), {"name": error.name}
    ),
    LocationInUse: lambda error: _precondition("STORAGE_LOCATION_IN_USE", "storage_location", error),
    TooManyLocations: lambda error: Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STORAGE_LOCATIONS", str(error), {"limit": str(error.limit)}
    ),
    SecretsNotConfigured: lambda error: _precondition("SECRETS_NOT_CONFIGURED", "operator", error),
}
