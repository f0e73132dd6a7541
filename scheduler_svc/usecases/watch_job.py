"""Tells a job's story while it happens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from scheduler_svc.domain.errors import SchedulerStopping, SequenceAhead
from scheduler_svc.domain.events import JobEvent, WatchMessage, coalesce_progress
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.store.event_store import EventStore
from scheduler_svc.store.job_store import JobStore
from scheduler_svc.store.notifications import Notifications

_PAGE = 500
_BEHIND = 100
"""A reader for whom so many new events wait has fallen behind: of their progress it gets the newest."""


async def watch_job(
    job_id: JobId,
    owner_id: UserId,
    after_sequence: int,
    jobs: JobStore,
    events: EventStore,
    notifications: Notifications,
    heartbeat_seconds: float,
) -> AsyncIterator[WatchMessage]:
    """Yields the job as it is, then each event after `after_sequence`, as it comes; ends after the one that is final.

    Raises:
        JobNotFound: it is not there, or is deleted meanwhile.
        SequenceAhead: `after_sequence` is beyond its newest event.
        SchedulerStopping: this replica shuts down; the watch can go on at another.
    """
    # Listening first: what happens between reading and listening would be lost.
    with notifications.watch(job_id) as watch:
        job = await jobs.get(job_id, owner_id)
        if after_sequence > job.sequence:
            raise SequenceAhead(after_sequence, job.sequence)
        yield WatchMessage(after_sequence, job)
        told, history_end = after_sequence, job.sequence
        beat_at = time.monotonic() + heartbeat_seconds
        while not (job.is_final and told >= job.sequence):
            page = await events.list_events(job_id, told, _PAGE)
            kept, is_thinned = _thin(page, history_end)
            for event in kept:
                yield WatchMessage(event.sequence, event)
                if event.makes_final:
                    return
            told = page[-1].sequence if page else told
            if is_thinned:
                job = await jobs.get(job_id, owner_id)
                yield WatchMessage(told, job)
            if page:
                beat_at = time.monotonic() + heartbeat_seconds
            if len(page) == _PAGE:
                continue
            if time.monotonic() >= beat_at:
                # Also how the watch of a job that was deleted ends.
                job = await jobs.get(job_id, owner_id)
                yield WatchMessage(told, None)
                beat_at = time.monotonic() + heartbeat_seconds
            if notifications.is_closing:
                raise SchedulerStopping("the scheduler restarts: watch again after the last sequence")
            await watch.wait(beat_at - time.monotonic())
            if watch.state_changed:
                watch.state_changed = False
                job = await jobs.get(job_id, owner_id)


def _thin(page: Sequence[JobEvent], history_end: int) -> tuple[Sequence[JobEvent], bool]:
    """Leaves out progress that is old news to a reader who has fallen behind; history is told in full."""
    live = [event for event in page if event.sequence > history_end]
    if len(live) < _BEHIND:
        return page, False
    kept, is_thinned = coalesce_progress(live)
    return [*page[: len(page) - len(live)], *kept], is_thinned
