"""The trainer's errors as clients see them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import grpc

from meshkit.rpc.failure import ErrorTable, Failure
from trainer_svc.domain.errors import (
    AttemptNotHereError,
    ClipUndecodableError,
    DeviceUnfitError,
    InferenceBusyError,
    InferenceInterruptedError,
    ModelUnfitError,
    QuestionRefusedError,
    SchedulerUnavailableError,
    StorageUnavailableError,
    UnsafePathError,
)


def _attempt_not_here(error: AttemptNotHereError) -> Failure:
    return Failure(
        grpc.StatusCode.NOT_FOUND,
        "ATTEMPT_NOT_FOUND",
        f"no attempt of {error.job_id} runs here; ask the scheduler where it runs",
        {"job_id": error.job_id},
    )


def _busy(error: InferenceBusyError) -> Failure:
    return Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "INFERENCE_BUSY",
        f"{error}; ask again in a while",
        retry_after=max(error.retry_after, timedelta(seconds=1)),
    )


def _refused(code: grpc.StatusCode, reason: str) -> Callable[[Exception], Failure]:
    return lambda error: Failure(code, reason, str(error))


def _try_again(reason: str, seconds: float) -> Callable[[Exception], Failure]:
    def make(error: Exception) -> Failure:
        return Failure(
            grpc.StatusCode.UNAVAILABLE, reason, f"{error}; try again", retry_after=timedelta(seconds=seconds)
        )

    return make


def _dependency_away(_: SchedulerUnavailableError) -> Failure:
    return Failure(
        grpc.StatusCode.UNAVAILABLE,
        "DEPENDENCY_UNAVAILABLE",
        "a service that this one needs does not answer; try again in a few seconds",
        retry_after=timedelta(seconds=2),
    )


ERROR_TABLE: ErrorTable = {
    AttemptNotHereError: _attempt_not_here,
    InferenceBusyError: _busy,
    ClipUndecodableError: _refused(grpc.StatusCode.INVALID_ARGUMENT, "CLIP_UNDECODABLE"),
    QuestionRefusedError: _refused(grpc.StatusCode.INVALID_ARGUMENT, "QUESTION_REFUSED"),
    UnsafePathError: _refused(grpc.StatusCode.FAILED_PRECONDITION, "PATH_UNSAFE"),
    DeviceUnfitError: _refused(grpc.StatusCode.FAILED_PRECONDITION, "DEVICE_UNFIT"),
    ModelUnfitError: _refused(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNFIT"),
    InferenceInterruptedError: _try_again("INFERENCE_INTERRUPTED", 1),
    StorageUnavailableError: _try_again("STORAGE_UNAVAILABLE", 5),
    SchedulerUnavailableError: _dependency_away,
}
