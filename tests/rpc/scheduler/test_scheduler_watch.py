"""Watching: no gap, no duplicate, whoever restarts."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest
from reeltune.scheduler.v1 import training_history_pb2 as pb
from reeltune.scheduler.v1 import training_service_pb2

from tests.rpc.scheduler.conftest import StartReplica
from tests.rpc.scheduler.scheduler_mesh import (
    Replica,
    Trainer,
    User,
    all_of,
    failure_of,
    state_name,
)

CODE = grpc.StatusCode


def _watch(user: User, job_id: str, after: int = 0) -> Any:
    request = pb.WatchTrainingJobRequest(job_id=job_id, after_sequence=after)
    return user.training.WatchTrainingJob(request, metadata=user.metadata)


async def _next_event(stream: Any) -> pb.WatchTrainingJobResponse:
    async with asyncio.timeout(60):
        while True:
            message = await stream.read()
            assert message is not grpc.aio.EOF
            if message.HasField("event"):
                return message


async def test_a_broken_watch_goes_on_where_it_was_at_any_replica(
    user: User, trainer: Trainer, start: StartReplica, record_property: pytest.RecordProperty
) -> None:
    seed = random.randrange(2**32)
    record_property("seed", seed)
    dice = random.Random(seed)
    users = [user, user.at(await start())]
    job = await user.create()
    attempt = await trainer.must_claim()
    told: list[int] = []

    async def watch_with_breaks() -> None:
        after = 0
        while True:
            stream = _watch(dice.choice(users), job.id, after)
            first = await stream.read()
            assert first.HasField("snapshot")
            assert first.snapshot.sequence >= after
            for _ in range(dice.randrange(1, 8)):
                message = await stream.read()
                if message is grpc.aio.EOF:
                    return
                if message.HasField("event"):
                    assert message.sequence == message.event.sequence
                    told.append(message.event.sequence)
                after = message.sequence
            stream.cancel()

    watching = asyncio.create_task(watch_with_breaks())
    async with attempt.attach(users[1].replica) as stream:
        await stream.started()
        for step in range(1, 40):
            await stream.metrics(step, loss=1.0)
            if step % 10 == 0:
                await stream.acked(await stream.progress(step))
        await stream.acked(await stream.log("done"))
    assert await attempt.complete(await attempt.put_files({"a": b"1"})) == "COMPLETED"
    await asyncio.wait_for(watching, 60)
    final = await user.get(job.id)
    assert told == list(range(1, final.sequence + 1)), f"seed {seed}"


async def test_following_only_what_is_new(user: User, trainer: Trainer) -> None:
    job = await user.create()
    stream = _watch(user, job.id, job.sequence)
    first = await stream.read()
    assert (first.sequence, first.snapshot.id) == (1, job.id)
    await trainer.must_claim()
    event = (await _next_event(stream)).event
    assert (event.sequence, state_name(event.state_change.to)) == (2, "STARTING")
    stream.cancel()


async def test_the_watch_of_a_final_job_tells_and_ends(user: User) -> None:
    job = await user.create()
    stopped = await user.stop(job.id)
    messages = await all_of(_watch(user, job.id))
    assert [message.WhichOneof("update") for message in messages] == ["snapshot", "event", "event"]
    assert state_name(messages[0].snapshot.state) == "STOPPED"
    messages = await all_of(_watch(user, job.id, stopped.sequence))
    assert [message.WhichOneof("update") for message in messages] == ["snapshot"]


async def test_a_sequence_from_the_future_is_out_of_range(user: User) -> None:
    job = await user.create()
    failure = await failure_of(all_of(_watch(user, job.id, 2)))
    assert (failure.code, failure.reason) == (CODE.OUT_OF_RANGE, "SEQUENCE_AHEAD")
    failure = await failure_of(all_of(_watch(user, job.id, -1)))
    assert failure.reason == "FIELD_INVALID"


async def test_a_quiet_watch_beats(start: StartReplica, user: User) -> None:
    quick = user.at(await start(watch_heartbeat_seconds=0.1))
    job = await user.create()
    stream = _watch(quick, job.id, job.sequence)
    assert (await stream.read()).HasField("snapshot")
    beats = [await asyncio.wait_for(stream.read(), 60) for _ in range(2)]
    assert all(beat.HasField("heartbeat") and beat.sequence == 1 for beat in beats)
    assert beats[0].heartbeat.send_time.ToNanoseconds() < beats[1].heartbeat.send_time.ToNanoseconds()
    stream.cancel()


async def test_a_reader_who_falls_behind_loses_progress_only(user: User, trainer: Trainer) -> None:
    """The client reads nothing while thousands of events come; flow control holds its stream back."""
    job = await user.create()
    attempt = await trainer.must_claim()
    stream = _watch(user, job.id)
    assert (await stream.read()).HasField("snapshot")
    async with attempt.attach() as attached:
        await attached.started()
        number = 0
        for batch in range(12):
            for line in range(150):
                number = await attached.log(f"{batch}.{line} " + "x" * 500)
            await attached.acked(await attached.progress(batch + 1))
        await attached.acked(await attached.log("last"))
    await attempt.fail("BAD_DATA", "row 3")
    messages = await all_of(stream)
    events = [message.event for message in messages if message.HasField("event")]
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    final = await user.get(job.id)
    everything = await _all_events(user, job.id)
    missing = set(range(1, final.sequence + 1)) - set(sequences)
    assert all(everything[sequence - 1].HasField("progress") for sequence in missing)
    assert number > 1800
    if missing:
        assert sum(message.HasField("snapshot") for message in messages) >= 1


async def _all_events(user: User, job_id: str) -> list[Any]:
    events: list[Any] = []
    token = ""
    while True:
        request = pb.ListEventsRequest(job_id=job_id, page_size=1000, page_token=token)
        response = await user.training.ListEvents(request, metadata=user.metadata)
        events.extend(response.events)
        token = response.next_page_token
        if not token:
            return events


async def test_a_replica_that_stops_says_so_and_another_goes_on(user: User, start: StartReplica) -> None:
    leaving: Replica = await start()
    job = await user.create()
    stream = _watch(user.at(leaving), job.id)
    assert (await _next_event(stream)).sequence == 1
    stopping = asyncio.create_task(leaving.stop())
    failure = await failure_of(stream.read())
    assert (failure.code, failure.reason) == (CODE.UNAVAILABLE, "SERVER_STOPPING")
    assert failure.retry_after is not None
    await asyncio.wait_for(stopping, 60)
    onward = _watch(user, job.id, 1)
    assert (await onward.read()).HasField("snapshot")
    await user.stop(job.id)
    assert (await _next_event(onward)).sequence == 2
    assert await onward.read() is grpc.aio.EOF


async def test_the_watch_of_a_job_that_is_deleted_ends(user: User) -> None:
    job = await user.create()
    stream = _watch(user, job.id)
    await _next_event(stream)
    await user.training.DeleteTrainingJob(
        training_service_pb2.DeleteTrainingJobRequest(job_id=job.id), metadata=user.metadata
    )
    failure = await failure_of(stream.read())
    assert (failure.code, failure.reason) == (CODE.NOT_FOUND, "JOB_NOT_FOUND")
