"""What a person is told when something fails: what, where, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from meshkit.rpc.failure import Failure, FieldViolation
from meshkit.rpc.status import failure_from_rpc_error

_NEXT_STEPS = {
    "TOKEN_MISSING": "sign in: reeltune login",
    "TOKEN_INVALID": "sign in again: reeltune login",
    "REFRESH_TOKEN_INVALID": "sign in again: reeltune login",
    "NOT_SIGNED_IN": "sign in: reeltune login (or make a user: reeltune signup)",
    "CREDENTIALS_INVALID": "no user yet? reeltune signup",
    "USERNAME_TAKEN": "if it is yours: reeltune login",
    "EMAIL_TAKEN": "if it is yours: reeltune login",
    "DATASET_NOT_FOUND": "see which there are: reeltune dataset list",
    "MODEL_NOT_FOUND": "see which there are: reeltune model list",
    "JOB_NOT_FOUND": "see which there are: reeltune train list",
    "ARTIFACT_NOT_FOUND": "see how far the job is: reeltune train watch JOB",
    "DATASET_NOT_READY": "see what is wrong with it: reeltune dataset issues DATASET",
    "MODEL_NOT_READY": "see what is wrong with it: reeltune model show MODEL",
    "RPC_UNAVAILABLE": "is the mesh running? start it with: reeltune up; or name another one with --endpoint",
    "RPC_DEADLINE_EXCEEDED": "the mesh is slow or out of reach; try again",
}


@dataclass(eq=False)
class ClientError(Exception):
    """A failure that a person can do something about."""

    message: str
    """What is wrong, in a line."""
    reason: str
    """UPPER_SNAKE, as in the services' ErrorInfo."""
    next_step: str = ""
    field_violations: Sequence[FieldViolation] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def to_document(self) -> dict[str, Any]:
        """Returns the error as JSON values."""
        document: dict[str, Any] = {"reason": self.reason, "message": self.message}
        if self.field_violations:
            document["fieldViolations"] = [
                {"field": row.field, "description": row.description} for row in self.field_violations
            ]
        if self.next_step:
            document["nextStep"] = self.next_step
        return {"error": document}


def describe_rpc_error(error: grpc.aio.AioRpcError) -> ClientError:
    """Returns what a failed call means to a person."""
    return describe_failure(failure_from_rpc_error(error))


def describe_failure(failure: Failure) -> ClientError:
    """Returns what a service's failure means to a person."""
    message = failure.message
    if failure.reason == "RPC_UNAVAILABLE":
        message = f"the mesh cannot be reached ({_transport_cause(message)})"
    next_step = _NEXT_STEPS.get(failure.reason, "")
    if failure.reason == "RPC_INTERNAL" and "RST_STREAM" in message:
        message, next_step = "the service broke off in the midst of its answer", "it may have been restarted: ask again"
    if failure.retry_after is not None and not next_step:
        next_step = f"try again in {failure.retry_after.total_seconds():.0f} s"
    return ClientError(
        message=message,
        reason=failure.reason,
        next_step=next_step,
        field_violations=failure.field_violations,
        metadata=dict(failure.metadata),
    )


def _transport_cause(text: str) -> str:
    """Returns the part of grpc's long text that says something: `Connection refused`, `CERTIFICATE_VERIFY_FAILED` …"""
    for known in ("Connection refused", "CERTIFICATE_VERIFY_FAILED", "DNS resolution failed", "Connection reset"):
        if known in text:
            return known
    return text.rpartition("; ")[2][:160]
