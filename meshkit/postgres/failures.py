"""Rows for a service's error table: what Postgres troubles look like to a client.

Apart from the rest of this package, so that stores do not import grpc: bootstrap merges
`{**POSTGRES_FAILURES, **ERROR_TABLE}`.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import asyncpg
import grpc

from meshkit.rpc.failure import ErrorTable, Failure


def _unavailable(_: BaseException) -> Failure:
    return Failure(
        code=grpc.StatusCode.UNAVAILABLE,
        reason="POSTGRES_UNAVAILABLE",
        message="the database does not answer; try again in a few seconds",
        retry_after=timedelta(seconds=2),
    )


def _timed_out(_: BaseException) -> Failure:
    return Failure(
        code=grpc.StatusCode.UNAVAILABLE,
        reason="POSTGRES_TIMEOUT",
        message="the database took too long; try again in a few seconds",
        retry_after=timedelta(seconds=5),
    )


def _conflict(_: BaseException) -> Failure:
    return Failure(
        code=grpc.StatusCode.ABORTED,
        reason="TRANSACTION_CONFLICT",
        message="another call changed the same rows at the same time; try again",
        retry_after=timedelta(milliseconds=200),
    )


def _bad_text(_: BaseException) -> Failure:
    return Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="TEXT_INVALID",
        message="a text in the request holds a character that cannot be kept, such as NUL; remove it",
    )


def _interface_error(error: Any) -> Failure | None:
    # asyncpg raises this class both for a connection that broke and for a mistake in our own code.
    if "closed" in str(error) or "closing" in str(error):
        return _unavailable(error)
    return None


def _internal_client_error(error: Any) -> Failure | None:
    # What a connection says that the server closed while it was idle, until its client has noticed.
    if "cannot switch to state" in str(error):
        return _unavailable(error)
    return None


POSTGRES_FAILURES: ErrorTable = {
    asyncpg.PostgresConnectionError: _unavailable,
    asyncpg.CannotConnectNowError: _unavailable,
    asyncpg.AdminShutdownError: _unavailable,
    asyncpg.CrashShutdownError: _unavailable,
    asyncpg.TooManyConnectionsError: _unavailable,
    asyncpg.InterfaceError: _interface_error,
    asyncpg.InternalClientError: _internal_client_error,
    ConnectionError: _unavailable,
    socket.gaierror: _unavailable,
    asyncpg.QueryCanceledError: _timed_out,
    asyncpg.LockNotAvailableError: _timed_out,
    TimeoutError: _timed_out,
    asyncpg.SerializationError: _conflict,
    asyncpg.DeadlockDetectedError: _conflict,
    asyncpg.CharacterNotInRepertoireError: _bad_text,
    asyncpg.UntranslatableCharacterError: _bad_text,
}
"""By exception type. `TimeoutError` is what acquiring a connection and the client-side command timeout raise."""
