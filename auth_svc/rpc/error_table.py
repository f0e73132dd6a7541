"""How the errors of this service look to a client."""

from __future__ import annotations

from datetime import timedelta

import grpc

from auth_svc.domain.errors import (
    CredentialsInvalid,
    EmailTaken,
    EtagMismatch,
    InvalidField,
    LastAdmin,
    LoginThrottled,
    PasswordQueueFull,
    RefreshTokenInvalid,
    RoleRequired,
    SessionEnded,
    UserDisabled,
    UsernameTaken,
    UserNotFound,
)
from meshkit.rpc.failure import ErrorTable, Failure, PreconditionViolation, invalid_field
from meshkit.rpc.filtering import FilterError, filter_failure

_QUEUE_RETRY = timedelta(seconds=2)


def _login_throttled(error: LoginThrottled) -> Failure:
    seconds = max(error.retry_after.total_seconds(), 0.1)
    return Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LOGIN_THROTTLED",
        f"too many failed log-ins; try again in {seconds:.1f} s",
        {"seconds": f"{seconds:.1f}"},
        retry_after=timedelta(seconds=seconds),
    )


def _last_admin(error: LastAdmin) -> Failure:
    return Failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        "LAST_ADMIN",
        f"user {error.user_id} is the last admin: make another user an admin first",
        {"user_id": error.user_id},
        precondition_violations=(PreconditionViolation("LAST_ADMIN", error.user_id, "no admin would be left"),),
    )


ERROR_TABLE: ErrorTable = {
    FilterError: filter_failure,
    InvalidField: lambda error: invalid_field(error.field, error.description),
    UsernameTaken: lambda _: Failure(
        grpc.StatusCode.ALREADY_EXISTS, "USERNAME_TAKEN", "this username is taken; choose another one, or log in"
    ),
    EmailTaken: lambda _: Failure(
        grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN", "this e-mail address has a user; log in instead"
    ),
    CredentialsInvalid: lambda _: Failure(
        grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID", "username or password is wrong; try again"
    ),
    LoginThrottled: _login_throttled,
    PasswordQueueFull: lambda _: Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SIGN_IN_BUSY",
        "too many people sign in at this moment; try again in a few seconds",
        retry_after=_QUEUE_RETRY,
    ),
    UserDisabled: lambda _: Failure(
        grpc.StatusCode.PERMISSION_DENIED, "USER_DISABLED", "an admin has barred this user; ask them to lift it"
    ),
    RefreshTokenInvalid: lambda _: Failure(
        grpc.StatusCode.UNAUTHENTICATED,
        "REFRESH_TOKEN_INVALID",
        "the refresh token is unknown, expired, used before, or its session has ended; log in again",
    ),
    # Told like any other token that is no longer good: there is nothing else for the client to do.
    SessionEnded: lambda _: Failure(
        grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "the session has ended; log in again"
    ),
    RoleRequired: lambda _: Failure(
        grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED", "this call is open to: admin", {"required": "admin"}
    ),
    UserNotFound: lambda error: Failure(
        grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", f"no user {error.name}; list the users", {"user_id": error.name}
    ),
    EtagMismatch: lambda error: Failure(
        grpc.StatusCode.ABORTED,
        "ETAG_MISMATCH",
        f"user {error.user_id} was changed meanwhile; read it again and repeat the change",
        {"user_id": error.user_id},
    ),
    LastAdmin: _last_admin,
}
