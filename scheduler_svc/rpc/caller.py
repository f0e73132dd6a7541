"""Who calls, in the scheduler's terms."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc

from meshkit.auth.principal import current_principal
from scheduler_svc.domain.ids import AttemptKey, JobId, UserId, WorkerId

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def calling_user() -> UserId:
    """Returns the signed-in user."""
    return UserId(current_principal().subject)


def calling_worker() -> WorkerId:
    """Returns the worker that a worker token is for."""
    return WorkerId(current_principal().subject)


def calling_attempt() -> AttemptKey:
    """Returns the attempt that a grant is for."""
    principal = current_principal()
    return AttemptKey(JobId(principal.subject), int(principal.claims["attempt"]))
