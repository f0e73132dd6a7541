"""Wake-ups: published when the broker is there, kept when it is not, and never needed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from meshkit.embedded import NatsServer
from meshkit.jetstream import JetStream, NatsUnavailable, connect
from meshkit.testing import Database, assert_eventually
from meshkit.testing.plugin import NATS_USER
from scheduler_svc.clients.wake_ups import STREAM, WakeUps
from scheduler_svc.domain.job import DeviceClass, JobState, StateReason, WakeUp
from scheduler_svc.store.notifications import Notifications
from scheduler_svc.usecases.relay_outbox import OutboxRelay, RelayOutcome
from tests.integration.scheduler.scheduler_stores import OWNER, Stores, files_of


@pytest_asyncio.fixture(loop_scope="session")
async def own_nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A broker that this test may kill."""
    server = NatsServer(tmp_path / "nats", [NATS_USER])
    await server.start()
    yield server
    await server.stop()


@contextlib.asynccontextmanager
async def _relaying(stores: Stores, database: Database, nats: NatsServer) -> AsyncIterator[JetStream]:
    """Runs a relay as a replica does; gives its connection."""
    jetstream = connect(nats.url, user=NATS_USER.name, password=NATS_USER.password, name="scheduler")
    notifications = Notifications(database.dsn)
    relay = OutboxRelay(stores.outbox, WakeUps(jetstream), notifications)
    tasks = [asyncio.create_task(notifications.run()), asyncio.create_task(relay.run())]
    try:
        yield jetstream
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await jetstream.close()
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


async def _outbox_is_empty(stores: Stores) -> bool:
    return await stores.pool.fetchval("SELECT count(*) FROM outbox") == 0


async def _messages(jetstream: JetStream) -> list[tuple[str, dict[str, object], str]]:
    """Returns what the stream holds: subject, payload, message id."""
    context = jetstream.context()
    info = await context.stream_info(STREAM)
    found = []
    for sequence in range(info.state.first_seq, info.state.last_seq + 1):
        message = await context.get_msg(STREAM, sequence)
        found.append((message.subject or "", json.loads(message.data or b""), (message.headers or {})["Nats-Msg-Id"]))
    return found


async def test_a_wake_up_goes_to_the_subject_of_its_class(
    stores: Stores, database: Database, own_nats: NatsServer
) -> None:
    async with _relaying(stores, database, own_nats) as jetstream:
        jobs = [await stores.submit(device_class=device_class) for device_class in DeviceClass]
        await assert_eventually(lambda: _outbox_is_empty(stores))
        expected = [
            (f"jobs.v1.{job.needs.device_class.lower()}", {"job_id": job.id, "generation": 1}, f"{job.id}:1")
            for job in jobs
        ]
        assert sorted(await _messages(jetstream), key=str) == sorted(expected, key=str)


async def test_two_relays_publish_each_wake_up_once(
    stores: Stores, other_replica: Stores, database: Database, own_nats: NatsServer
) -> None:
    for _ in range(120):
        await stores.submit()
        await stores.worker()
    async with (
        _relaying(stores, database, own_nats) as jetstream,
        _relaying(other_replica, database, own_nats),
    ):
        await assert_eventually(lambda: _outbox_is_empty(stores))
        assert len({message_id for _, _, message_id in await _messages(jetstream)}) == 120


async def test_of_many_wake_ups_no_more_are_published_than_trainers_could_heed(
    stores: Stores, database: Database, own_nats: NatsServer
) -> None:
    await stores.running()
    await stores.workers.drain(await stores.worker(), None)
    for _ in range(2):
        await stores.worker()
    # Trainers may ask once a minute, and are heard of at no other time while they have no job.
    await stores.pool.execute("UPDATE workers SET heartbeat_time = clock_timestamp() - interval '1 minute'")
    await stores.pool.execute("DELETE FROM outbox")
    anywhere = [await stores.submit() for _ in range(40)]
    jetson = [await stores.submit(device_class=DeviceClass.JETSON) for _ in range(3)]
    async with _relaying(stores, database, own_nats) as jetstream:
        await assert_eventually(lambda: _outbox_is_empty(stores))
        published = [message_id for _, _, message_id in await _messages(jetstream)]
    assert published == [f"{job.id}:1" for job in (*anywhere[:2], *jetson[:2])]


@pytest.mark.parametrize(("jobs", "all_told"), [(0, False), (2, False), (3, True)])
async def test_a_round_knows_whether_every_idle_trainer_has_been_woken(
    stores: Stores, jobs: int, *, all_told: bool
) -> None:
    for _ in range(2):
        await stores.worker()
    for _ in range(jobs):
        await stores.submit()

    class Taking(WakeUps):
        def __init__(self) -> None:
            """Without a broker."""

        async def publish_all(self, wake_ups: Sequence[WakeUp]) -> Sequence[NatsUnavailable | None]:
            return [None] * len(wake_ups)

    outcome = await OutboxRelay(stores.outbox, Taking(), Notifications("")).relay()
    assert outcome == RelayOutcome(is_full=False, all_told=all_told)
    assert await _outbox_is_empty(stores)


async def test_wake_ups_wait_for_the_ones_that_speak_for_them(stores: Stores) -> None:
    """The broker takes one of two: what it has not taken stays, and all that it would have spoken for."""
    jobs = [await stores.submit() for _ in range(5)]
    for _ in range(2):
        await stores.worker()

    class HalfBroken(WakeUps):
        def __init__(self) -> None:
            """Without a broker."""

        async def publish_all(self, wake_ups: Sequence[WakeUp]) -> Sequence[NatsUnavailable | None]:
            return [None, NatsUnavailable("full")]

    relay = OutboxRelay(stores.outbox, HalfBroken(), Notifications(""))
    with pytest.raises(NatsUnavailable):
        await relay.relay()
    left = await stores.pool.fetch("SELECT job_id FROM outbox ORDER BY id")
    assert [row["job_id"] for row in left] == [job.id for job in jobs[1:]]


async def test_each_requeue_is_published_however_quickly_it_comes(
    stores: Stores, database: Database, own_nats: NatsServer
) -> None:
    async with _relaying(stores, database, own_nats) as jetstream:
        job = await stores.submit()
        for _ in range(5):
            await assert_eventually(lambda: _outbox_is_empty(stores))
            key = await stores.claimed()
            await stores.attempts.fail(key, StateReason.PREEMPTED, "", dice=0)
        await assert_eventually(lambda: _outbox_is_empty(stores))
        assert [message_id for _, _, message_id in await _messages(jetstream)] == [f"{job.id}:{n}" for n in range(1, 7)]


async def test_a_killed_broker_delays_wake_ups_and_a_wiped_one_gets_them_again(
    stores: Stores, database: Database, own_nats: NatsServer
) -> None:
    for _ in range(2):
        await stores.worker()
    async with _relaying(stores, database, own_nats) as jetstream:
        first = await stores.submit()
        await assert_eventually(lambda: _outbox_is_empty(stores))
        await own_nats.kill()
        second = await stores.submit()
        shutil.rmtree(own_nats.data_dir / "jetstream")
        await own_nats.start()
        await assert_eventually(lambda: _outbox_is_empty(stores))

        async def has_both() -> bool:
            return {job_id for _, payload, _ in await _messages(jetstream) for job_id in [payload["job_id"]]} == {
                first.id,
                second.id,
            }

        await assert_eventually(has_both)


async def test_without_any_broker_every_job_still_runs(
    stores: Stores, database: Database, own_nats: NatsServer
) -> None:
    await own_nats.kill()
    async with _relaying(stores, database, own_nats):
        jobs = [await stores.submit() for _ in range(5)]
        worker = await stores.worker()
        for _ in jobs:
            key = await stores.claimed(worker)
            assert await stores.attempts.complete(files_of(key), None) is JobState.COMPLETED
        assert await stores.attempts.claim(worker) is None
        assert all([(await stores.jobs.get(job.id, OWNER)).state is JobState.COMPLETED for job in jobs])
    await stores.outbox.republish_waiting()
    assert await _outbox_is_empty(stores), "wake-ups of jobs that do not wait any more stay for ever"


async def test_a_job_that_waits_long_is_told_again_ever_more_rarely(stores: Stores) -> None:
    job = await stores.submit()
    await stores.pool.execute("DELETE FROM outbox")
    await stores.outbox.republish_waiting()
    assert await _outbox_is_empty(stores)
    pauses = []
    for waited in ("1 minute", "10 minutes", "3 days"):
        await stores.pool.execute(
            f"UPDATE jobs SET republish_time = now(), queue_time = now() - interval '{waited}' WHERE id = $1", job.id
        )
        await stores.outbox.republish_waiting()
        assert not await _outbox_is_empty(stores)
        pauses.append(await stores.pool.fetchval("SELECT extract(epoch FROM republish_time - now())::int FROM jobs"))
        await stores.pool.execute("DELETE FROM outbox")
    assert pauses == [60, 600, 3600]


async def test_a_wake_up_waits_for_the_end_of_the_backoff(stores: Stores) -> None:
    key = await stores.running()
    await stores.pool.execute("DELETE FROM outbox")
    await stores.attempts.fail(key, StateReason.CRASHED, "", dice=1)
    async with stores.outbox.take(10) as batch:
        assert batch.wake_ups == []
    wait = await stores.outbox.next_due()
    assert wait is not None
    assert 0 < wait.total_seconds() <= 1
