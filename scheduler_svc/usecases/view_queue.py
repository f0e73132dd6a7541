"""Tells where in the queue jobs are and why they wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import structlog

from meshkit.cancellation import heard
from meshkit.postgres.trouble import POSTGRES_TROUBLE
from scheduler_svc.domain.claim_forecast import QueueSnapshot
from scheduler_svc.domain.event_ring import MessageT
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.domain.job import Job, JobState
from scheduler_svc.domain.queue_view import QueueStatus, view_queue
from scheduler_svc.store.queue_store import QueueStore
from scheduler_svc.usecases.job_feed import JobFeeds

_LEAST_AGE_SECONDS = 1.0
_LEAST_SPACING_SECONDS = 0.1
_PAUSE_PER_COST = 20.0
"""Looking costs at most a twentieth of the time, however long the queue."""
_MANY = 200
"""So many jobs are not thought about on the event loop."""
_TELL_SECONDS = 0.5
_LEAST_WAIT = timedelta(seconds=1)


class QueueView:
    """One look at the queue, kept for a second or longer and shared by all who ask at this replica."""

    def __init__(self, queue: QueueStore) -> None:
        self._queue = queue
        self._looking = asyncio.Lock()
        self._seen: Mapping[JobId, QueueStatus] = {}
        self._starts: Mapping[UserId, datetime] = {}
        self._seen_at = float("-inf")
        self._cost = 0.0

    async def status(self, job: Job) -> QueueStatus | None:
        """Returns where in the queue a job is; None when it is not in it, or that cannot be told right now."""
        return (await self.statuses([job])).get(job.id)

    async def statuses(self, jobs: Iterable[Job]) -> Mapping[JobId, QueueStatus]:
        """Returns where in the queue those of the jobs are that are in it."""
        waiting = {job.id: job.sequence for job in jobs if job.state is JobState.QUEUED}
        if not waiting:
            return {}
        seen = await self.everything()
        if not _knows(seen, waiting) and self._age() > max(_LEAST_SPACING_SECONDS, _PAUSE_PER_COST * self._cost):
            # A job that has just come, or just changed: the owner who looks at once sees it, too.
            seen = await self._look(newer_than=time.monotonic())
        return {job_id: seen[job_id] for job_id in waiting if _knows(seen, {job_id: waiting[job_id]})}

    async def everything(self) -> Mapping[JobId, QueueStatus]:
        """Returns the place of every job in the queue, as of a moment ago."""
        age = max(_LEAST_AGE_SECONDS, _PAUSE_PER_COST * self._cost)
        return self._seen if self._age() < age else await self._look(newer_than=time.monotonic() - age)

    async def next_start(self, owner_id: UserId) -> timedelta | None:
        """Returns after what time the first of an owner's jobs will probably leave the queue; None when unknown."""
        await self.everything()
        start = self._starts.get(owner_id)
        return None if start is None else max(start - datetime.now(UTC), _LEAST_WAIT)

    def _age(self) -> float:
        return time.monotonic() - self._seen_at

    async def _look(self, *, newer_than: float) -> Mapping[JobId, QueueStatus]:
        async with self._looking:
            if self._seen_at > newer_than:  # somebody else has looked meanwhile
                return self._seen
            began = time.monotonic()
            try:
                snapshot = await heard(self._queue.read())
            except POSTGRES_TROUBLE as error:
                # The place in the queue is a courtesy: what it is shown beside must not fail for it.
                structlog.get_logger().warning("queue.not_read", cause=repr(error))
                self._seen, self._starts, self._seen_at = {}, {}, time.monotonic()
                return self._seen
            is_long = len(snapshot.jobs) >= _MANY
            self._seen = await asyncio.to_thread(view_queue, snapshot) if is_long else view_queue(snapshot)
            self._starts = _first_starts(snapshot, self._seen)
            self._seen_at = time.monotonic()
            self._cost = self._seen_at - began
            return self._seen


async def tell_queue(view: QueueView, feeds: JobFeeds[MessageT]) -> None:
    """Tells those who watch a waiting job its place and every change that matters; for ever."""
    while True:
        await asyncio.sleep(_TELL_SECONDS)
        watched = feeds.watched()
        if not watched:
            continue
        seen = await view.everything()
        for feed in watched:
            status = seen.get(feed.job_id)
            now = datetime.now(UTC)
            if status is None or feed.aside is None or not status.tells_nothing_new_after(feed.aside, now):
                feed.show(status)


def _first_starts(snapshot: QueueSnapshot, seen: Mapping[JobId, QueueStatus]) -> dict[UserId, datetime]:
    starts: dict[UserId, datetime] = {}
    for job in snapshot.jobs:
        start = seen[job.id].estimated_start_time
        if start is not None:
            starts[job.owner_id] = min(start, starts.get(job.owner_id, start))
    return starts


def _knows(seen: Mapping[JobId, QueueStatus], jobs: Mapping[JobId, int]) -> bool:
    return all(job_id in seen and seen[job_id].sequence == sequence for job_id, sequence in jobs.items())
