"""Ends an attempt badly."""

from __future__ import annotations

import random

import structlog

from meshkit.failpoints import failpoint
from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.ids import AttemptKey
from scheduler_svc.domain.job import JobState, StateReason
from scheduler_svc.domain.retry import TRAINER_REASONS
from scheduler_svc.store.attempt_store import AttemptStore


async def fail_attempt(key: AttemptKey, reason: StateReason, message: str, attempts: AttemptStore) -> JobState:
    """Returns the state that the retry policy gives the job. Raises InvalidField, StaleAttempt."""
    if reason not in TRAINER_REASONS:
        known = ", ".join(sorted(TRAINER_REASONS))
        raise InvalidField("reason", f"is not one that a trainer can give: use one of {known}")
    state = await attempts.fail(key, reason, message, dice=random.random())  # noqa: S311  # spreads retries, no secret
    await failpoint("fail.after_commit")
    structlog.get_logger().info("attempt.failed", job_id=key.job_id, attempt=key.attempt, reason=reason, state=state)
    return state
