"""One reader for all who watch a job: nothing is missed or told twice, and the database is asked once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from meshkit.postgres.trouble import POSTGRES_TROUBLE
from meshkit.testing import Database, assert_eventually
from scheduler_svc.domain.errors import JobNotFound, SchedulerStopping, SequenceAhead, TooManyWatches
from scheduler_svc.domain.events import JobEvent, LogLevel, LogLine, MetricPoint, Report, StateChange, WatchMessage
from scheduler_svc.domain.ids import AttemptKey, JobId, UserId
from scheduler_svc.domain.job import Job, JobState, Progress, StateReason
from scheduler_svc.store.notifications import Notifications
from scheduler_svc.usecases.job_feed import JobFeeds, WatchLimits
from scheduler_svc.usecases.view_queue import QueueView
from scheduler_svc.usecases.watch_job import watch_job
from tests.integration.scheduler.scheduler_stores import OWNER, Stores

# Nobody looks for news unasked: each test says what brings them.
LIMITS = WatchLimits(watches=1200, watches_per_user=1100, concurrent_reads=3, poll_seconds=600)


class Watching:
    """The feeds of a replica, and how often they asked the database."""

    def __init__(self, stores: Stores, dsn: str, limits: WatchLimits = LIMITS) -> None:
        self.reads: Counter[str] = Counter()
        self.reads_at_once = self.most_at_once = 0
        self.rendered = 0
        self.notifications = Notifications(dsn)
        self.feeds = JobFeeds(
            _counted(stores.jobs, self), _counted(stores.events, self), self.notifications, self._render, limits
        )
        self.queue = QueueView(stores.queue)
        self.stopping = asyncio.Event()

    def _render(self, message: WatchMessage) -> WatchMessage:
        self.rendered += isinstance(message.update, JobEvent)
        return message

    def watch(
        self, job_id: JobId, after: int = 0, owner: UserId = OWNER, *, heartbeat_seconds: float = 60
    ) -> AsyncIterator[WatchMessage]:
        return watch_job(job_id, owner, after, self.feeds, self.queue, heartbeat_seconds)

    async def told(self, job_id: JobId, after: int = 0) -> list[int]:
        """Watches to the end and returns the sequences of the events."""
        sequences: list[int] = []
        await self.tell(job_id, sequences, after)
        return sequences

    async def tell(self, job_id: JobId, sequences: list[int], after: int = 0) -> None:
        """Watches to the end and notes the sequences of the events as they come."""
        async for message in self.watch(job_id, after):
            if isinstance(message.update, JobEvent):
                sequences.append(message.sequence)  # noqa: PERF401  # looked at while it grows


def _counted(store: Any, watching: Watching) -> Any:
    """The store, with its reads counted on the way."""

    class Counted:
        def __getattr__(self, name: str) -> Any:
            async def call(*args: Any) -> Any:
                watching.reads[name] += 1
                watching.reads_at_once += 1
                watching.most_at_once = max(watching.most_at_once, watching.reads_at_once)
                try:
                    return await getattr(store, name)(*args)
                finally:
                    watching.reads_at_once -= 1

            return call

    return Counted()


@pytest_asyncio.fixture(loop_scope="session")
async def watching(stores: Stores, database: Database) -> AsyncIterator[Watching]:
    watching = Watching(stores, database.dsn)
    async with _listening(watching, database):
        yield watching


@contextlib.asynccontextmanager
async def _listening(watching: Watching, database: Database) -> AsyncIterator[None]:
    task = asyncio.create_task(watching.notifications.run())
    await assert_eventually(lambda: _listeners(database))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _listeners(database: Database) -> list[int]:
    """Returns the server processes of connections that listen."""
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND query IN ('SELECT 1', 'LISTEN scheduler_outbox')"
            " AND application_name NOT LIKE 'reeltune%' AND pid <> pg_backend_pid()",
            database.name,
        )
        return [row["pid"] for row in rows]
    finally:
        await connection.close()


class Story:
    """Writes the history of one running job."""

    def __init__(self, stores: Stores, key: AttemptKey) -> None:
        self._stores = stores
        self.key = key
        self._report = 1

    async def write(self, *bodies: Progress | MetricPoint | LogLine) -> None:
        reports = [Report(self._report + number, body) for number, body in enumerate(bodies, start=1)]
        self._report += len(bodies)
        await self._stores.attempts.record(self.key, reports)

    async def logs(self, count: int, text: str = "line") -> None:
        await self.write(*(LogLine(LogLevel.INFO, text) for _ in range(count)))

    async def end(self) -> int:
        """Fails the job; returns its last sequence."""
        await self._stores.attempts.fail(self.key, StateReason.BAD_DATA, "row 3", dice=0.5)
        return (await self._stores.jobs.get(self.key.job_id, OWNER)).sequence


@pytest_asyncio.fixture(loop_scope="session")
async def story(stores: Stores) -> Story:
    return Story(stores, await stores.running())


async def test_a_thousand_watchers_are_one_reader(watching: Watching, story: Story) -> None:
    job_id = story.key.job_id
    told: list[list[int]] = [[] for _ in range(1000)]
    watches = [asyncio.create_task(watching.tell(job_id, sequences)) for sequences in told]
    await assert_eventually(lambda: all(sequences == [1, 2, 3, 4] for sequences in told), timeout=60)
    for _ in range(10):
        await story.logs(3)
    last = await story.end()
    await asyncio.gather(*watches)
    assert all(sequences == list(range(1, last + 1)) for sequences in told)
    # Four events were there before: one read of them for whoever came first, and one for all others, who could be told
    # no older snapshot. What came then was read and made into messages once.
    assert watching.reads["get"] <= 3
    assert watching.reads["list_events"] <= 2 * 12
    assert watching.rendered <= last + 4
    assert watching.feeds.watched() == []
    assert watching.feeds.watch_count == 0


async def test_history_is_read_up_to_where_the_feed_began_and_no_event_twice(watching: Watching, story: Story) -> None:
    stream = watching.watch(story.key.job_id)
    snapshot = await anext(stream)
    assert isinstance(snapshot.update, Job)
    assert snapshot.update.sequence == 4
    await story.logs(3)
    await assert_eventually(lambda: watching.rendered == 3)
    assert [(await anext(stream)).sequence for _ in range(7)] == list(range(1, 8))
    assert watching.rendered == 7
    await stream.aclose()  # type: ignore[attr-defined]


async def test_whoever_comes_when_and_however_slow_hears_all_of_it_once(
    stores: Stores, database: Database, story: Story, record_property: pytest.RecordProperty
) -> None:
    """Two replicas, a ring that holds a handful of events, readers that dawdle, break off and come back elsewhere."""
    seed = random.randrange(2**32)
    record_property("seed", seed)
    dice = random.Random(seed)
    replicas = [Watching(stores, database.dsn) for _ in range(2)]
    job_id = story.key.job_id

    async def reader() -> tuple[int, list[int]]:
        begin = after = dice.randrange(4)
        told: list[int] = []
        while True:
            stream = dice.choice(replicas).watch(job_id, after)
            async with contextlib.aclosing(stream):  # type: ignore[type-var]
                patience = dice.randrange(1, 60)
                async for message in stream:
                    assert message.sequence >= after
                    after = message.sequence
                    if isinstance(message.update, JobEvent):
                        told.append(message.sequence)
                        if message.update.makes_final:
                            return begin, told
                    await asyncio.sleep(dice.choice([0, 0, 0, 0.001, 0.02]))
                    patience -= 1
                    if not patience:
                        break

    async with contextlib.AsyncExitStack() as stack:
        for replica in replicas:
            await stack.enter_async_context(_listening(replica, database))
        readers = [asyncio.create_task(reader()) for _ in range(20)]
        for _ in range(60):
            await story.logs(dice.randrange(1, 8), text="x" * dice.choice([1, 4000]))
            await asyncio.sleep(dice.choice([0, 0.001, 0.01]))
        last = await story.end()
        for begin, told in await asyncio.gather(*readers):
            assert told == list(range(begin + 1, last + 1)), f"seed {seed}"
        assert not any(replica.feeds.watched() for replica in replicas)


async def test_a_reader_whom_the_ring_has_passed_by_loses_progress_only(watching: Watching, story: Story) -> None:
    stream = watching.watch(story.key.job_id)
    events = [(await anext(stream)).update for _ in range(5)][1:]
    for number in range(250):
        await story.write(Progress(step=number), LogLine(LogLevel.INFO, f"{number} " + "x" * 4000))
    last = await story.end()
    await assert_eventually(lambda: watching.rendered >= last - 1)
    reads = watching.reads["list_events"]
    rest = [message async for message in stream]
    events += [message.update for message in rest if isinstance(message.update, JobEvent)]
    sequences = [event.sequence for event in events if isinstance(event, JobEvent)]
    assert sequences == sorted(set(sequences))
    lines = [event.body.text for event in events if isinstance(event, JobEvent) and isinstance(event.body, LogLine)]
    assert [int(line.partition(" ")[0]) for line in lines] == list(range(250))
    assert sequences[-1] == last
    progress = [event for event in events if isinstance(event, JobEvent) and isinstance(event.body, Progress)]
    assert 1 <= len(progress) < 10, "of old progress only the newest of each stretch"
    assert any(isinstance(message.update, Job) for message in rest)
    assert watching.reads["list_events"] > reads, "from the database, where the ring does not reach"


async def test_a_job_that_was_tried_again_is_told_beyond_its_first_end(
    watching: Watching, stores: Stores, story: Story
) -> None:
    job_id = story.key.job_id
    early = asyncio.create_task(watching.told(job_id))
    first_end = await story.end()
    assert await early == list(range(1, first_end + 1)), "who watched until then has been told the end"
    assert await watching.told(job_id, first_end) == []
    await stores.jobs.retry(job_id, OWNER, from_scratch=False)
    late = [asyncio.create_task(watching.told(job_id, after)) for after in (0, first_end - 1, first_end)]
    await assert_eventually(lambda: watching.feeds.watch_count == 3)
    last = (await stores.jobs.stop(job_id, OWNER, stores.lease)).sequence
    assert last == first_end + 2
    assert await asyncio.gather(*late) == [list(range(after + 1, last + 1)) for after in (0, first_end - 1, first_end)]


async def test_a_deleted_job_ends_its_watches(watching: Watching, stores: Stores) -> None:
    job = await stores.submit()
    watches = [asyncio.create_task(watching.told(job.id)) for _ in range(20)]
    await assert_eventually(lambda: watching.feeds.watch_count == 20)
    await stores.jobs.delete(job.id, OWNER)
    ends = await asyncio.gather(*watches, return_exceptions=True)
    assert all(isinstance(end, JobNotFound) for end in ends)
    assert len({id(end) for end in ends}) == 20, "each has an exception of its own"
    with pytest.raises(JobNotFound):
        await watching.told(job.id)
    assert watching.feeds.watched() == []


async def test_another_users_job_is_not_there_however_many_watch_it(watching: Watching, stores: Stores) -> None:
    job = await stores.submit()
    stream = watching.watch(job.id)
    await anext(stream)
    with pytest.raises(JobNotFound):
        await anext(watching.watch(job.id, owner=UserId("usr_other")))
    with pytest.raises(SequenceAhead):
        await anext(watching.watch(job.id, 2))
    await stream.aclose()  # type: ignore[attr-defined]
    assert watching.feeds.watched() == []


async def test_watches_are_limited_for_each_user_and_for_all(stores: Stores, database: Database) -> None:
    limits = replace(LIMITS, watches=3, watches_per_user=2)
    watching = Watching(stores, database.dsn, limits)
    other = UserId("usr_other")
    jobs = [await stores.submit(owner) for owner in (OWNER, OWNER, OWNER, other, other)]
    async with contextlib.AsyncExitStack() as stack:

        async def begin(job: Job) -> Any:
            stream = watching.watch(job.id, owner=job.owner_id)
            stack.push_async_callback(stream.aclose)  # type: ignore[attr-defined]
            await anext(stream)
            return stream

        first = await begin(jobs[0])
        await begin(jobs[1])
        with pytest.raises(TooManyWatches) as caught:
            await begin(jobs[2])
        assert (caught.value.limit, caught.value.whose) == (2, "yours")
        await begin(jobs[3])
        with pytest.raises(TooManyWatches) as caught:
            await begin(jobs[4])
        assert (caught.value.limit, caught.value.whose) == (3, "all users'")
        await first.aclose()
        await begin(jobs[4])
    assert watching.feeds.watch_count == 0


async def test_two_hundred_jobs_outlast_a_break_of_the_listening_connection(
    watching: Watching, stores: Stores, database: Database
) -> None:
    """All feeds wake at once when it is back; they take turns at the database, and what was missed is told."""
    jobs = [await stores.submit() for _ in range(200)]
    watches = [asyncio.create_task(watching.told(job.id)) for job in jobs]
    await assert_eventually(lambda: watching.feeds.watch_count == 200)
    connection = await asyncpg.connect(database.superuser_dsn)
    for pid in await _listeners(database):
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
    await connection.close()
    watching.most_at_once = 0
    for job in jobs:
        await stores.jobs.stop(job.id, OWNER, stores.lease)
    assert await asyncio.gather(*watches) == [[1, 2]] * 200
    assert watching.most_at_once <= 2 * LIMITS.concurrent_reads


async def test_a_database_that_is_away_for_a_moment_ends_no_watch(
    watching: Watching, stores: Stores, database: Database, story: Story
) -> None:
    watch = asyncio.create_task(watching.told(story.key.job_id))
    await assert_eventually(lambda: watching.reads["list_events"] >= 1)
    connection = await asyncpg.connect(database.superuser_dsn)
    for _ in range(3):
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            database.name,
        )
        with contextlib.suppress(*POSTGRES_TROUBLE):
            await story.logs(1)
    await connection.close()

    async def has_ended() -> int:
        with contextlib.suppress(*POSTGRES_TROUBLE):
            return await story.end()
        return 0

    last = await assert_eventually(has_ended)
    assert await asyncio.wait_for(watch, 60) == list(range(1, last + 1))


async def test_watches_end_when_the_replica_stops_and_none_begins(watching: Watching, story: Story) -> None:
    closing = asyncio.create_task(watching.feeds.close_when(watching.stopping))
    watches = [asyncio.create_task(watching.told(story.key.job_id)) for _ in range(10)]
    await assert_eventually(lambda: watching.feeds.watch_count == 10)
    watching.stopping.set()
    assert all(isinstance(end, SchedulerStopping) for end in await asyncio.gather(*watches, return_exceptions=True))
    with pytest.raises(SchedulerStopping):
        await watching.told(story.key.job_id)
    await closing


async def test_a_feed_that_breaks_ends_its_watches(watching: Watching, story: Story) -> None:
    """What nobody foresaw must not leave those who watch with heartbeats for ever."""
    watch = asyncio.create_task(watching.told(story.key.job_id, 4))
    await assert_eventually(lambda: watching.feeds.watch_count == 1)
    await assert_eventually(lambda: watching.reads["get"] >= 1)
    watching.feeds.render = _broken
    await story.logs(1)
    with pytest.raises(RuntimeError, match="broke"):
        await watch


def _broken(message: WatchMessage) -> Any:
    raise ZeroDivisionError


async def test_what_is_told_beside_the_history_is_told_once_and_only_the_newest(
    watching: Watching, stores: Stores
) -> None:
    job = await stores.submit()
    stream = watching.watch(job.id)
    assert [(await anext(stream)).sequence for _ in range(2)] == [0, 1]
    (feed,) = watching.feeds.watched()
    asides = [replace(job, message=str(number)) for number in range(3)]
    for aside in (asides[0], asides[1], replace(asides[1])):
        feed.show(aside)
    assert await anext(stream) == WatchMessage(1, asides[1])
    feed.show(None)
    feed.show(asides[2])
    assert await anext(stream) == WatchMessage(1, asides[2])
    late = watching.watch(job.id, 1)
    assert [(await anext(late)).update for _ in range(2)] == [job, asides[2]]
    await stores.jobs.stop(job.id, OWNER, stores.lease)
    for left in (stream, late):
        (event,) = [message.update async for message in left]
        assert isinstance(event, JobEvent)
        assert isinstance(event.body, StateChange)
        assert event.body.target is JobState.STOPPED
