"""The stream of an attempt: recorded once, orders at once, fenced when it is over."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import grpc
import pytest
from reeltune.scheduler.v1 import attempt_service_pb2 as pb
from reeltune.scheduler.v1 import training_history_pb2

from meshkit.postgres import open_pool
from meshkit.testing import Database, assert_eventually
from scheduler_svc.usecases import attach_attempt
from tests.rpc.scheduler.conftest import StartReplica
from tests.rpc.scheduler.scheduler_mesh import Attempt, Trainer, User, failure_of, lose_lease

CODE = grpc.StatusCode


async def _running(user: User, trainer: Trainer) -> Attempt:
    await user.create()
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
    return attempt


async def _logged(user: User, job_id: str) -> list[str]:
    request = training_history_pb2.ListLogsRequest(job_id=job_id, page_size=1000)
    response = await user.training.ListLogs(request, metadata=user.metadata)
    return [line.log.text for line in response.lines]


async def test_after_a_break_everything_is_recorded_once(user: User, trainer: Trainer, start: StartReplica) -> None:
    other = await start()
    attempt = await _running(user, trainer)
    async with attempt.attach() as stream:
        assert stream.acknowledged == 1
        for text in ("a", "b"):
            await stream.acked(await stream.log(text))
    # The acknowledgement of the last one "was lost": it is sent again, at another replica, with what is new.
    async with attempt.attach(other) as stream:
        assert stream.acknowledged == 3
        await stream.report(number=3, log=_line("b"))
        await stream.report(number=4, log=_line("c"))
        await stream.acked(4)
        await stream.report(number=2, log=_line("a"))
        await stream.acked(await stream.report(number=5, log=_line("d")))
    assert await _logged(user, attempt.job_id) == ["a", "b", "c", "d"]
    assert await user.state(attempt.job_id) == "RUNNING"


def _line(text: str):  # type: ignore[no-untyped-def]
    return pb.AttachRequest(log={"text": text, "level": 2}).log


async def test_the_end_of_a_stream_is_not_the_end_of_the_attempt(user: User, trainer: Trainer) -> None:
    attempt = await _running(user, trainer)
    async with attempt.attach() as stream:
        await stream.call.done_writing()
        assert await stream.ended() is None
    assert await user.state(attempt.job_id) == "RUNNING"


async def test_half_closing_loses_nothing(user: User, trainer: Trainer) -> None:
    attempt = await _running(user, trainer)
    async with attempt.attach() as stream:
        for number in range(50):
            await stream.log(str(number))
        await stream.call.done_writing()
        assert await stream.ended() is None
        assert stream.acknowledged == 51
    assert len(await _logged(user, attempt.job_id)) == 50


async def test_a_stop_reaches_the_trainer_at_once_through_another_replica(
    user: User, trainer: Trainer, start: StartReplica
) -> None:
    other = await start()
    attempt = await _running(user, trainer)
    async with attempt.attach(other) as stream:
        assert (await user.stop(attempt.job_id)).reason
        # No heartbeat asks for it: nothing but the notification can bring it.
        await stream.until(lambda: stream.must_stop)
        assert await user.state(attempt.job_id) == "STOPPING"
    async with attempt.attach() as stream:
        assert stream.must_stop, "told again to whoever attaches anew"
        assert await attempt.complete(await attempt.put_files({"a": b"so far"})) == "STOPPED"
        assert await stream.ended() is None
    job = await user.get(attempt.job_id)
    assert (job.has_artifact, job.reason) == (True, 12)


async def test_a_lost_notification_is_made_up_for_by_the_heartbeat(
    user: User, trainer: Trainer, database: Database
) -> None:
    attempt = await _running(user, trainer)
    async with attempt.attach() as stream:
        pool = await open_pool(database.dsn, "scheduler", max_size=1)
        await pool.execute(
            "UPDATE jobs SET state = 'STOPPING', stop_deadline = now() + interval '1 min' WHERE id = $1", attempt.job_id
        )
        await pool.close()
        await stream.heartbeat()
        assert stream.must_stop


async def test_fast_progress_is_coalesced_and_everything_else_kept(user: User, trainer: Trainer) -> None:
    attempt = await _running(user, trainer)
    begin = time.monotonic()
    async with attempt.attach() as stream:
        last = 0
        for step in range(1, 401):
            await stream.metrics(step, loss=1.0)
            last = await stream.progress(step, total_steps=400)
        await stream.acked(last)
    seconds = time.monotonic() - begin
    job = await user.get(attempt.job_id)
    assert job.progress.step == 400
    request = training_history_pb2.ListEventsRequest(job_id=attempt.job_id, page_size=1000)
    events = (await user.training.ListEvents(request, metadata=user.metadata)).events
    assert [event.metrics.step for event in events if event.HasField("metrics")] == list(range(1, 401))
    progress = [event for event in events if event.HasField("progress")]
    assert len(progress) <= 3 + seconds / attach_attempt.WRITE_INTERVAL_SECONDS


async def test_an_attached_attempt_that_is_replaced_is_told(user: User, trainer: Trainer, database: Database) -> None:
    attempt = await _running(user, trainer)
    async with attempt.attach() as stream:
        await lose_lease(database.dsn, attempt)
        error = await stream.ended()
    assert error is not None
    assert error.code() is CODE.ABORTED
    failure = await failure_of(attempt.fail("CRASHED"))
    assert failure.reason == "ATTEMPT_FENCED"

    async def next_attempt() -> Attempt | None:
        return await trainer.claim()

    second = await assert_eventually(next_attempt)
    assert second is not None
    assert second.number == 2
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async with attempt.attach():
            pass
    assert refused.value.code() is CODE.ABORTED


async def test_leases_end_by_silence_and_live_by_heartbeats(user: User, start: StartReplica) -> None:
    strict = await start(lease_seconds=2.5, heartbeat_seconds=0.2, sweep_seconds=0.1)
    trainer = await Trainer(strict).register()
    await user.create()
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
        alive_until = time.monotonic() + 4
        while time.monotonic() < alive_until:
            await stream.heartbeat()  # its answer comes after 0.2 s: heartbeats are written as seldom as reports
        assert await user.state(attempt.job_id) == "RUNNING"
        begin = time.monotonic()

        async def is_queued() -> bool:
            return await user.state(attempt.job_id) == "QUEUED"

        await assert_eventually(is_queued)
        assert time.monotonic() - begin > 1


async def test_a_stop_that_is_ignored_ends_with_the_grace(user: User, trainer: Trainer, start: StartReplica) -> None:
    hasty = await start(stop_grace_seconds=0.3, lease_seconds=2, heartbeat_seconds=0.5, sweep_seconds=0.1)
    attempt = await _running(user, trainer)
    async with attempt.attach() as stream:
        await user.at(hasty).stop(attempt.job_id)
        error = await stream.ended()
    assert error is not None
    assert error.code() is CODE.ABORTED
    job = await user.get(attempt.job_id)
    assert (job.state, job.reason) == (6, 13)
    assert (await failure_of(attempt.complete([]))).reason == "ATTEMPT_FENCED"


async def test_grants_are_renewed_on_the_stream(user: User, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = await _running(user, trainer)
    async with attempt.attach() as stream:
        assert not any(reply.grant for reply in stream.replies)
    monkeypatch.setattr(attach_attempt, "_RENEW_GRANT_BEFORE_END", timedelta(minutes=20))
    async with attempt.attach() as stream:
        await stream.until(lambda: any(reply.grant for reply in stream.replies))
        attempt.grant = next(reply.grant for reply in stream.replies if reply.grant)
    assert await attempt.fail("PREEMPTED") == "QUEUED"


@pytest.mark.parametrize(
    "request_message",
    [pb.AttachRequest(report=-1), pb.AttachRequest(report=0, started=pb.Started(total_steps=1))],
    ids=["negative number", "report without a number"],
)
async def test_a_bad_message_ends_the_stream_and_not_the_attempt(
    user: User, trainer: Trainer, request_message: pb.AttachRequest
) -> None:
    attempt = await _running(user, trainer)
    async with attempt.attach() as stream:
        await stream.log("before")
        await stream.call.write(request_message)
        error = await stream.ended()
    assert error is not None
    assert error.code() is CODE.INVALID_ARGUMENT
    assert await _logged(user, attempt.job_id) == ["before"]
    assert await user.state(attempt.job_id) == "RUNNING"


async def test_a_replica_that_stops_hands_its_attempts_over(user: User, trainer: Trainer, start: StartReplica) -> None:
    leaving = await start()
    attempt = await _running(user, trainer)
    async with attempt.attach(leaving) as stream:
        await stream.acked(await stream.log("before"))
        stopping = asyncio.create_task(leaving.stop())
        error = await stream.ended()
        assert error is not None
        assert error.code() is CODE.UNAVAILABLE
    await asyncio.wait_for(stopping, 60)
    async with attempt.attach() as stream:
        assert stream.acknowledged == 2
        await stream.acked(await stream.log("after"))
    assert await attempt.complete(await attempt.put_files({"a": b"1"})) == "COMPLETED"
    job = await user.get(attempt.job_id)
    assert job.attempt == 1
    assert await _logged(user, job.id) == ["before", "after"]
