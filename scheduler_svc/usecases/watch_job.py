"""Tells a job's story while it happens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from scheduler_svc.domain.errors import SequenceAhead
from scheduler_svc.domain.event_ring import MessageT, thin
from scheduler_svc.domain.events import WatchMessage
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.usecases.job_feed import JobFeeds
from scheduler_svc.usecases.view_queue import QueueView

_BEHIND = 100
"""A reader for whom so many new events wait has fallen behind: of their progress it gets the newest."""


async def watch_job(
    job_id: JobId,
    owner_id: UserId,
    after_sequence: int,
    feeds: JobFeeds[MessageT],
    queue: QueueView,
    heartbeat_seconds: float,
) -> AsyncIterator[MessageT]:
    """Yields the job as it is, then each event after `after_sequence`, as it comes.

    Ends after the event that makes the job final, unless the job had left that state again when the watch began.

    Raises:
        JobNotFound: it is not there, or is deleted meanwhile.
        SequenceAhead: `after_sequence` is beyond its newest event.
        TooManyWatches: there are as many as may be.
        SchedulerStopping: this replica shuts down; the watch can go on at another.
        HistoryUnavailable: the database has not answered for long.
    """
    with feeds.join(job_id, owner_id) as feed:
        job = await feed.snapshot()
        if after_sequence > job.sequence:
            raise SequenceAhead(after_sequence, job.sequence)
        yield feeds.render(WatchMessage(after_sequence, job, await queue.status(job)))
        told, history_end = after_sequence, job.sequence
        aside = untold = None
        if job.is_final and told == history_end:
            return
        beat_at = time.monotonic() + heartbeat_seconds
        while True:
            batch = await feed.after(told)
            kept, is_thinned = thin(batch, history_end, _BEHIND)
            for event in kept:
                yield event.message
                # What made it final before the watch began and did not keep it so is history like any other.
                if event.makes_final and event.sequence >= history_end:
                    return
            if batch:
                told = batch[-1].sequence
            if is_thinned:
                job = await feed.snapshot()
                yield feeds.render(WatchMessage(told, job, await queue.status(job)))
            has_news = bool(batch)
            if feed.aside is not aside:
                aside = untold = feed.aside
            has_caught_up = told >= history_end and not feed.has_after(told)
            if untold is not None and untold.sequence <= told and has_caught_up:
                # What was so before the newest event is old news.
                if untold.sequence == told:
                    has_news = True
                    yield feeds.render(WatchMessage(told, untold))
                untold = None
            feed.check()
            now = time.monotonic()
            if not has_news and now >= beat_at:
                yield feeds.render(WatchMessage(told, None))
            if has_news or now >= beat_at:
                beat_at = now + heartbeat_seconds
            await feed.wait(told, aside, beat_at - now)
