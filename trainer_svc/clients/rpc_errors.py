"""What a failed call to another service means to the trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc

from meshkit.rpc.status import failure_from_rpc_error
from trainer_svc.domain.errors import (
    AttemptFencedError,
    CallRefusedError,
    CredentialRefusedError,
    FilesIncompleteError,
    SchedulerUnavailableError,
)

_TRY_AGAIN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


@contextlib.contextmanager
def typed_errors() -> Iterator[None]:
    """Turns the failure of calls made inside into errors of the domain.

    Raises:
        AttemptFencedError, SchedulerUnavailableError, CredentialRefusedError, FilesIncompleteError, CallRefusedError.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _typed(error) from error
    except grpc.aio.UsageError as error:  # writing to a stream that has ended
        raise SchedulerUnavailableError("the stream has ended") from error


@contextlib.contextmanager
def passed_on() -> Iterator[None]:
    """Lets the caller's own caller see what the other service said, when the fault is in the request; for calls
    made with a user's token."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() in _TRY_AGAIN:
            raise SchedulerUnavailableError(f"{error.code().name}: {error.details()}") from error
        raise failure_from_rpc_error(error) from error


def _typed(error: grpc.aio.AioRpcError) -> Exception:
    failure = failure_from_rpc_error(error)
    # By the reason, not the code: ABORTED also says that two transactions met, which costs a healthy attempt nothing.
    if failure.reason == "ATTEMPT_FENCED":
        return AttemptFencedError(failure.message)
    if failure.reason == "FILES_INCOMPLETE":
        return FilesIncompleteError(failure.message)
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return CredentialRefusedError(f"{failure.reason}: {failure.message}")
    if error.code() in _TRY_AGAIN:
        return SchedulerUnavailableError(f"{failure.reason}: {failure.message}")
    return CallRefusedError(failure.reason, failure.message)
