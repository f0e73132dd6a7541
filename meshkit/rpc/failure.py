"""How an rpc fails: one typed exception, and the table that turns a service's own errors into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc

DOMAIN = "reeltune"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that breaks a rule (`google.rpc.BadRequest.FieldViolation`)."""

    field: str
    """Path in the request message, e.g. `lora.rank` or `rows[3].clip`."""
    description: str
    """What is wrong and what would be right."""
    reason: str = ""
    """The broken rule, e.g. `string.min_len`."""


@dataclass(frozen=True, slots=True)
class PreconditionViolation:
    """One reason why the state of the system forbids the call (`google.rpc.PreconditionFailure.Violation`)."""

    type: str
    subject: str
    description: str


@dataclass(eq=False)
class Failure(Exception):
    """An rpc's failure as the client will see it."""

    code: grpc.StatusCode
    reason: str
    """UPPER_SNAKE, stable: what clients branch on."""
    message: str
    """For people: what is wrong, where, and what to do next. No stack trace, SQL, host path or token."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Each dynamic part of the message."""
    field_violations: tuple[FieldViolation, ...] = ()
    retry_after: timedelta | None = None
    precondition_violations: tuple[PreconditionViolation, ...] = ()

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason}: {self.message}"


ErrorTable = Mapping[type[BaseException], Callable[[Any], Failure | None]]
"""Maps an exception type (and its subclasses) to the function that makes a Failure of such an exception.

The function may return None for an instance that it does not recognise: that one then counts as unforeseen.
"""


def failure_for(error: BaseException, table: ErrorTable) -> Failure | None:
    """Returns the failure that `error` stands for by the row of its nearest class, or None if no row covers it."""
    if isinstance(error, Failure):
        return error
    for error_type in type(error).__mro__:
        make = table.get(error_type)
        if make is not None:
            return make(error)
    return None


def invalid_field(path: str, description: str, *, rule: str = "") -> Failure:
    """Returns the failure for one bad field, the same that a broken rule of the contract gives."""
    return invalid_fields((FieldViolation(path, description, rule),))


def invalid_fields(violations: tuple[FieldViolation, ...]) -> Failure:
    """Returns INVALID_ARGUMENT `FIELD_INVALID`; the message names the first field and how to mend it."""
    first = violations[0]
    more = f" ({len(violations) - 1} more in the details)" if len(violations) > 1 else ""
    return Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="FIELD_INVALID",
        message=f"{first.field}: {first.description}{more}",
        metadata={"field": first.field},
        field_violations=violations,
    )
