"""Failures: rows by nearest class, and a size that fits into trailers."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.postgres.failures import POSTGRES_FAILURES
from meshkit.rpc.failure import Failure, FieldViolation, PreconditionViolation, failure_for, invalid_fields
from meshkit.rpc.status import status_from_failure


class Base(Exception):
    """An error."""


class Derived(Base):
    """A special case of it."""


def _row(reason: str) -> Failure:
    return Failure(grpc.StatusCode.NOT_FOUND, reason, "text")


def test_the_nearest_class_decides() -> None:
    table = {Base: lambda error: _row("BASE"), Exception: lambda error: _row("ANY")}
    failure = failure_for(Derived(), table)
    assert failure is not None
    assert failure.reason == "BASE"
    assert failure_for(Derived(), {**table, Derived: lambda error: None}) is None
    assert failure_for(KeyError(), {Base: lambda error: _row("BASE")}) is None
    own = _row("OWN")
    assert failure_for(own, table) is own


@given(
    st.text(max_size=3000),
    st.dictionaries(st.text(max_size=10), st.text(max_size=2000), max_size=3),
    st.lists(st.tuples(st.text(max_size=400), st.text(max_size=400)), max_size=60),
)
def test_any_failure_fits_into_trailers(
    message: str, metadata: dict[str, str], violations: list[tuple[str, str]]
) -> None:
    failure = Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="FIELD_INVALID",
        message=message,
        metadata=metadata,
        field_violations=tuple(FieldViolation(*violation) for violation in violations),
        retry_after=timedelta(seconds=1.5),
        precondition_violations=(PreconditionViolation("TYPE", "subject", "text"),),
    )
    status = status_from_failure(failure)
    kinds = [detail.TypeName() for detail in status.details]
    assert kinds.count("google.rpc.ErrorInfo") == 1
    assert ("google.rpc.BadRequest" in kinds) == bool(violations)
    # 16 KiB are what our servers allow as metadata; four bytes can stand for one character.
    assert status.ByteSize() < 12 * 1024


def test_the_message_names_the_first_field_and_counts_the_rest() -> None:
    failure = invalid_fields((FieldViolation("lora.rank", "must be at least 1"), FieldViolation("name", "is empty")))
    assert failure.message == "lora.rank: must be at least 1 (1 more in the details)"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(), "POSTGRES_UNAVAILABLE"),
        (asyncpg.ConnectionDoesNotExistError(), "POSTGRES_UNAVAILABLE"),
        (asyncpg.CannotConnectNowError(), "POSTGRES_UNAVAILABLE"),
        (asyncpg.InterfaceError("connection is closed"), "POSTGRES_UNAVAILABLE"),
        (asyncpg.InterfaceError("another operation is in progress"), None),
        (
            asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
            "POSTGRES_UNAVAILABLE",
        ),
        (asyncpg.InternalClientError("unexpected parameter"), None),
        (TimeoutError(), "POSTGRES_TIMEOUT"),
        (asyncpg.QueryCanceledError(), "POSTGRES_TIMEOUT"),
        (asyncpg.SerializationError(), "TRANSACTION_CONFLICT"),
        (asyncpg.UniqueViolationError(), None),
        (FileNotFoundError(), None),
    ],
)
def test_what_postgres_troubles_become(error: Exception, reason: str | None) -> None:
    failure = failure_for(error, POSTGRES_FAILURES)
    assert (failure.reason if failure else None) == reason
