"""Claim jobs one after the other, and run each to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

import structlog

from meshkit.failpoints import failpoint
from trainer_svc import metrics
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.wakeups import Wakeups
from trainer_svc.domain.attempt import FailReason, JobClaim
from trainer_svc.domain.backoff import Backoff
from trainer_svc.domain.errors import (
    AttemptFencedError,
    CallRefusedError,
    CredentialRefusedError,
    FilesIncompleteError,
    SchedulerUnavailableError,
)
from trainer_svc.domain.limits import AttemptLimits
from trainer_svc.usecases.live_attempt import LiveAttempt, LiveAttempts
from trainer_svc.usecases.register_worker import WorkerRegistration

RunAttempt = Callable[[LiveAttempt], Awaitable[str]]

_LAST_CALL_SECONDS = 3.0
_CANCELLED_SECONDS = 2.0
"""How long an attempt that was cancelled may take to clear up."""
_REFUSED = (CredentialRefusedError, CallRefusedError, AttemptFencedError, FilesIncompleteError)


@dataclass(frozen=True, slots=True)
class ClaimTools:
    scheduler: SchedulerClient
    registration: WorkerRegistration
    wakeups: Wakeups
    live: LiveAttempts
    run: RunAttempt
    before_training: Callable[[], Awaitable[None]]
    """Makes room on the device for a training process."""
    limits: AttemptLimits
    poll_seconds: float


async def claim_jobs(tools: ClaimTools) -> NoReturn:
    """Asks for a job when woken and every `poll_seconds`, and runs what it gets; one attempt at a time.

    Cancelling drains: the running attempt saves a checkpoint and is given back, within `limits.drain_total`.
    """
    backoff = Backoff(first=0.5, longest=5.0)
    while True:
        claim, is_answered = await _ask(tools, backoff)
        if claim is not None:
            await _run(claim, tools)
            continue  # more may wait: ask again at once
        delay = tools.poll_seconds if is_answered else max(tools.poll_seconds, backoff.next_delay())
        await tools.wakeups.wait(delay)


async def _ask(tools: ClaimTools, backoff: Backoff) -> tuple[JobClaim | None, bool]:
    """(the job that was claimed, if any; whether the scheduler has said so)."""
    token = await tools.registration.token()
    wakeups = tools.wakeups.take()
    asking = asyncio.create_task(tools.scheduler.claim(token))
    try:
        claim = await asyncio.shield(asking)
    except asyncio.CancelledError:
        await _give_back(asking, tools)
        raise
    except _REFUSED as error:
        metrics.SCHEDULER_REACHED.set(0)
        if backoff.failures == 0:
            structlog.get_logger().warning("claim.refused", cause=str(error))
        tools.registration.renew()
    except SchedulerUnavailableError as error:
        metrics.SCHEDULER_REACHED.set(0)
        if backoff.failures == 0:
            structlog.get_logger().warning("scheduler.away", cause=str(error))
    else:
        metrics.SCHEDULER_REACHED.set(1)
        if backoff.failures:
            structlog.get_logger().info("scheduler.back")
            backoff.reset()
            tools.registration.renew()
        if claim is None:
            tools.wakeups.hand_on(wakeups)
        else:
            tools.wakeups.heeded(wakeups)
        return claim, True
    tools.wakeups.put_off(wakeups)
    return None, False


async def _run(claim: JobClaim, tools: ClaimTools) -> None:
    attempt = LiveAttempt(claim)
    await failpoint("trainer.claimed")
    structlog.get_logger().info("job.claimed", job_id=claim.job_id, attempt=claim.attempt)
    running_here = metrics.JOBS.labels(claim.recipe).track_inprogress()
    # Every line that is logged meanwhile, by whatever part, says of which attempt.
    named = structlog.contextvars.bound_contextvars(job_id=claim.job_id, attempt=claim.attempt)
    with named, tools.live.running(attempt), tools.wakeups.left_to_others(), running_here:
        await tools.before_training()
        running = asyncio.ensure_future(tools.run(attempt))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await _drain(attempt, running, tools.limits.drain_total)
            raise


async def _drain(attempt: LiveAttempt, running: asyncio.Future[str], seconds: float) -> None:
    structlog.get_logger().info("attempt.draining", job_id=attempt.claim.job_id)
    attempt.order_drain()
    await asyncio.wait({running}, timeout=seconds)
    if not running.done():
        structlog.get_logger().warning("attempt.drain_timed_out", job_id=attempt.claim.job_id, seconds=seconds)
        running.cancel()
        await asyncio.wait({running}, timeout=_CANCELLED_SECONDS)
    if not running.done():
        # Whatever holds it up ends with this process, and the training process with it.
        structlog.get_logger().error("attempt.hangs", job_id=attempt.claim.job_id, seconds=_CANCELLED_SECONDS)
        return
    await asyncio.gather(running, return_exceptions=True)


async def _give_back(asking: asyncio.Task[JobClaim | None], tools: ClaimTools) -> None:
    """A job that was claimed in the moment of leaving goes back at once instead of when its lease ends."""
    await asyncio.wait({asking}, timeout=_LAST_CALL_SECONDS)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError, SchedulerUnavailableError, *_REFUSED):
        claim = await asking
        if claim is not None:
            await tools.scheduler.fail_attempt(claim.grant, FailReason.PREEMPTED, "the trainer goes away")
