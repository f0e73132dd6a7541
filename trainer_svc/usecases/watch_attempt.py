"""Show an attempt to its owner while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from trainer_svc.clients.jobs import JobsClient
from trainer_svc.domain.errors import AttemptNotHereError
from trainer_svc.domain.reports import Report
from trainer_svc.usecases.live_attempt import LiveAttempts


@dataclass(frozen=True, slots=True)
class WatchTools:
    jobs: JobsClient
    live: LiveAttempts


async def watch_attempt(job_id: str, user_id: str, user_token: str, tools: WatchTools) -> AsyncGenerator[Report, None]:
    """Yields the newest progress, then every report, until the attempt ends.

    Raises:
        AttemptNotHereError: no attempt of that job runs here, or it is not the caller's: nobody can tell which.
        SchedulerUnavailableError: nobody can be asked whose job it is.
    """
    attempt = tools.live.find(job_id)
    # Owners are known from the claim; that the job is still theirs to see is the scheduler's to say.
    if attempt.claim.owner_id != user_id or not await tools.jobs.can_see(user_token, job_id):
        raise AttemptNotHereError(job_id)
    async with contextlib.aclosing(attempt.watch()) as reports:
        async for report in reports:
            yield report
