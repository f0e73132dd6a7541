"""One reader per watched job and replica, whatever the number of those who watch it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic

import structlog

from meshkit.batching import SharedCalls
from meshkit.postgres.trouble import POSTGRES_TROUBLE
from scheduler_svc.domain.errors import HistoryUnavailable, JobNotFound, SchedulerStopping, TooManyWatches
from scheduler_svc.domain.event_ring import EventRing, MessageT, Told, told
from scheduler_svc.domain.events import WatchMessage
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.domain.job import Job
from scheduler_svc.domain.queue_view import QueueStatus
from scheduler_svc.store.event_store import EventStore
from scheduler_svc.store.job_store import JobStore
from scheduler_svc.store.notifications import Notifications

_PAGE = 500
_PATIENCE_SECONDS = 60.0
"""So long watches outlast a database that does not answer; then their clients may try another replica."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 5.0
_WOKEN_TOGETHER = 64
"""After so many watchers the loop attends to everybody else: a popular job must not hold up other calls."""


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How much watching one replica takes on."""

    watches: int = 2048
    watches_per_user: int = 1024
    concurrent_reads: int = 4
    """Of new events, and as many of old ones: whatever wakes all feeds at once, most of the pool stays free."""
    poll_seconds: float = 15.0
    """How often a feed looks for news that no notification told of."""


class JobFeeds(Generic[MessageT]):
    """The feeds of a replica: one for each job that somebody watches, for as long as somebody does.

    `render` makes the message that is sent. For an event it is called once, whatever the number of watchers.
    """

    def __init__(
        self,
        jobs: JobStore,
        events: EventStore,
        notifications: Notifications,
        render: Callable[[WatchMessage], MessageT],
        limits: WatchLimits,
    ) -> None:
        self.render = render
        self._jobs = jobs
        self._events = events
        self._notifications = notifications
        self._limits = limits
        self._tail_slots = asyncio.Semaphore(limits.concurrent_reads)
        self._history_slots = asyncio.Semaphore(limits.concurrent_reads)
        self._feeds: dict[tuple[JobId, UserId], JobFeed[MessageT]] = {}
        self._watches: Counter[UserId] = Counter()
        self._is_closing = False

    @property
    def watch_count(self) -> int:
        """How many watches are open."""
        return self._watches.total()

    def watched(self) -> Sequence[JobFeed[MessageT]]:
        """Returns the feeds, one for each job that is watched now."""
        return list(self._feeds.values())

    @contextlib.contextmanager
    def join(self, job_id: JobId, owner_id: UserId) -> Iterator[JobFeed[MessageT]]:
        """Gives the feed of a user's job for as long as the block runs; that the job is the user's its snapshot tells.

        Raises:
            TooManyWatches: the user, or the replica, has as many watches as it may have.
            SchedulerStopping: this replica shuts down.
        """
        if self._is_closing:
            raise _stopping()
        self._check_room(owner_id)
        key = job_id, owner_id
        feed = self._feeds.get(key)
        if feed is None or feed.has_failed:
            feed = self._feeds[key] = self._new_feed(job_id, owner_id)
        feed.watchers += 1
        self._watches[owner_id] += 1
        try:
            yield feed
        finally:
            self._watches[owner_id] -= 1
            if not self._watches[owner_id]:
                del self._watches[owner_id]
            feed.watchers -= 1
            if not feed.watchers:
                feed.close()
                if self._feeds.get(key) is feed:
                    del self._feeds[key]

    async def close_when(self, stopping: asyncio.Event) -> None:
        """Ends all watches once the service begins to stop."""
        await stopping.wait()
        self._is_closing = True
        for feed in self._feeds.values():
            feed.fail(_stopping)

    def _check_room(self, owner_id: UserId) -> None:
        if self._watches[owner_id] >= self._limits.watches_per_user:
            raise TooManyWatches(self._limits.watches_per_user, whose="yours")
        if self.watch_count >= self._limits.watches:
            raise TooManyWatches(self._limits.watches, whose="all users'")

    def _new_feed(self, job_id: JobId, owner_id: UserId) -> JobFeed[MessageT]:
        async def read_job() -> Job:
            async with self._history_slots:
                return await self._jobs.get(job_id, owner_id)

        async def read_events(after_sequence: int, limit: int, slots: asyncio.Semaphore) -> list[Told[MessageT]]:
            async with slots:
                page = await self._events.list_events(job_id, after_sequence, limit)
            return [told(event, self.render(WatchMessage(event.sequence, event))) for event in page]

        return JobFeed(
            job_id,
            self._notifications,
            self._limits.poll_seconds,
            read_job=read_job,
            read_tail=lambda after: read_events(after, _PAGE, self._tail_slots),
            read_history=lambda after, limit: read_events(after, limit, self._history_slots),
        )


class JobFeed(Generic[MessageT]):
    """One job as those see it who watch it: its events after any sequence, from memory where they are new.

    Events are numbered without a gap and never change, and a transaction that numbers one holds the lock of its job:
    what was read up to a number is complete up to it. So whoever keeps the number of the last event told may take the
    next ones from here or from the database, in any order of the two.
    """

    def __init__(
        self,
        job_id: JobId,
        notifications: Notifications,
        poll_seconds: float,
        *,
        read_job: Callable[[], Awaitable[Job]],
        read_tail: Callable[[int], Awaitable[list[Told[MessageT]]]],
        read_history: Callable[[int, int], Awaitable[list[Told[MessageT]]]],
    ) -> None:
        self.job_id = job_id
        self.watchers = 0
        self.aside: QueueStatus | None = None
        """What is to be told beside the history, and has no place in it: of this everybody gets the newest, once."""
        self._poll_seconds = poll_seconds
        self._job_reads = SharedCalls[None, Job](lambda _: read_job())
        self._read_tail = read_tail
        self._read_history = read_history
        self._history_reads = SharedCalls(self._read_until_ring)
        self._ring: EventRing[MessageT] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._failure: Callable[[], Exception] | None = None
        self._is_closed = False
        # Listening before anything is read: what happens in between would be lost.
        self._listening = contextlib.ExitStack()
        self._news = self._listening.enter_context(notifications.watch(job_id))

    @property
    def has_failed(self) -> bool:
        """True once the feed has told all that it ever will."""
        return self._failure is not None

    async def snapshot(self) -> Job:
        """Returns the job as it is now. Raises JobNotFound, also when it is not the caller's."""
        job = await self._job_reads.ask(None)
        if self._ring is None and not self._is_closed:
            self._ring = EventRing(job.sequence)
            # A context of its own: the reader belongs to nobody's rpc, whoever happened to come first.
            self._reader = asyncio.create_task(self._run(), name=f"feed {self.job_id}", context=Context())
        elif self._ring is not None and job.sequence > self._ring.end:
            self._news.wake()
        return job

    async def after(self, sequence: int) -> Sequence[Told[MessageT]]:
        """Returns some of the events that follow a sequence, in order from the first; nothing when there are none yet.

        Raises:
            JobNotFound: they are gone, with their job.
        """
        ring = self._started_ring()
        if ring.covers(sequence):
            return ring.after(sequence)
        page = await self._history_reads.ask(sequence)
        if not page:
            raise JobNotFound(self.job_id)
        return page

    def check(self) -> None:
        """Raises why nothing more will come, if that is so."""
        if self._failure is not None:
            raise self._failure()

    def show(self, aside: QueueStatus | None) -> None:
        """Tells all who watch something beside the history, unless they know it. None is nothing to tell."""
        if aside != self.aside:
            self.aside = aside
            self._wake()

    def has_after(self, sequence: int) -> bool:
        """Tells whether events are known that follow a sequence."""
        return self._started_ring().end > sequence

    async def wait(self, sequence: int, aside: QueueStatus | None, timeout_seconds: float) -> None:
        """Returns when something follows what has been told, or nothing more will, or after the timeout."""
        if self.has_failed or self.has_after(sequence) or self.aside is not aside:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters[waiter] = None
        timer = loop.call_later(max(timeout_seconds, 0), _resolve, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            del self._waiters[waiter]

    def fail(self, failure: Callable[[], Exception]) -> None:
        """Ends all watches with an exception, each with one of its own, once they have told what is here."""
        self._failure = self._failure or failure
        self._wake()

    def close(self) -> None:
        """Ends the reader: nobody watches any more."""
        self._is_closed = True
        self._news.wake()
        self._listening.close()

    async def _read_until_ring(self, sequence: int) -> list[Told[MessageT]]:
        # What the ring has is a message already: it is neither read nor made into one again.
        return await self._read_history(sequence, min(self._started_ring().start - sequence, _PAGE))

    def _started_ring(self) -> EventRing[MessageT]:
        if self._ring is None:
            raise AssertionError("a feed begins with a snapshot")
        return self._ring

    async def _run(self) -> None:
        try:
            await self._follow()
        except Exception:
            # Unforeseen. Nobody awaits this task: those who watch must not wait for ever for what will not come.
            structlog.get_logger().exception("feed.broke", job_id=self.job_id)
            self.fail(lambda: RuntimeError(f"the feed of {self.job_id} broke"))

    async def _follow(self) -> None:
        pause, backoff, troubled_since = _spread(self._poll_seconds), _FIRST_PAUSE_SECONDS, 0.0
        while True:
            await self._news.wait(pause)
            if self._is_closed or self.has_failed:
                return
            try:
                await self._catch_up()
            except JobNotFound:
                self.fail(lambda: JobNotFound(self.job_id))
            except POSTGRES_TROUBLE as error:
                structlog.get_logger().warning("feed.delayed", job_id=self.job_id, cause=repr(error))
                troubled_since = troubled_since or time.monotonic()
                if time.monotonic() - troubled_since > _PATIENCE_SECONDS:
                    self.fail(HistoryUnavailable)
                pause, backoff = _spread(backoff), min(2 * backoff, _LONGEST_PAUSE_SECONDS)
            else:
                pause, backoff, troubled_since = _spread(self._poll_seconds), _FIRST_PAUSE_SECONDS, 0.0

    async def _catch_up(self) -> None:
        """Takes in all that is new. Raises JobNotFound when the job is gone."""
        ring = self._started_ring()
        has_news = False
        while page := await self._read_tail(ring.end):
            has_news = True
            ring.extend(page)
            await self._wake_in_turn()
            if len(page) < _PAGE:
                return
        if not has_news:
            await self._job_reads.ask(None)

    def _wake(self) -> None:
        for waiter in self._waiters:
            _resolve(waiter)

    async def _wake_in_turn(self) -> None:
        for number, waiter in enumerate(list(self._waiters), start=1):
            _resolve(waiter)
            if number % _WOKEN_TOGETHER == 0:
                await asyncio.sleep(0)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _spread(seconds: float) -> float:
    """Returns somewhat less, by chance: what began together must not go on together."""
    return seconds * random.uniform(0.8, 1.0)  # noqa: S311  # no secret


def _stopping() -> SchedulerStopping:
    return SchedulerStopping("the scheduler restarts: watch again after the last sequence")
