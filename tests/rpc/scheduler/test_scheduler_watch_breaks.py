"""Promise 43: a watch has no gap, no duplicate and no time travel, whatever breaks and whoever is killed on the way."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest_asyncio
from reeltune.scheduler.v1 import job_event_pb2, training_job_pb2, training_service_pb2
from reeltune.scheduler.v1 import training_history_pb2 as pb
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub

from meshkit.auth.tokens import LEEWAY
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.testing import assert_eventually
from tests.rpc.scheduler.conftest import StartReplica
from tests.rpc.scheduler.replica_process import RECONNECT_QUICKLY, ReplicaProcess
from tests.rpc.scheduler.scheduler_mesh import Attempt, Replica, Trainer, User, UserKeys, all_of, failure_of

CODE = grpc.StatusCode
WATCHERS = 12
SEED = int(os.environ.get("REELTUNE_SEED", random.randrange(2**32)))
"""Of everything random here; set REELTUNE_SEED to repeat a run."""


class Door:
    """One replica as watchers reach it: a process that may be gone for a while."""

    def __init__(self, process: ReplicaProcess, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.training = TrainingServiceStub(channel)

    def watch(self, metadata: Any, job_id: str, after: int) -> Any:
        request = pb.WatchTrainingJobRequest(job_id=job_id, after_sequence=after)
        return self.training.WatchTrainingJob(request, metadata=metadata)


@pytest_asyncio.fixture(loop_scope="session")
async def doors(replica: Replica, tmp_path: Path) -> AsyncIterator[list[Door]]:
    """Two replicas beside the one in this process, on the same database."""
    async with AsyncExitStack() as stack:
        doors = []
        for number in range(2):
            process = ReplicaProcess(replica.settings, tmp_path / f"replica{number}")
            stack.push_async_callback(process.stop)
            channel = grpc.aio.insecure_channel(process.address, options=RECONNECT_QUICKLY)
            doors.append(Door(process, await stack.enter_async_context(channel)))
        await asyncio.gather(*(door.process.start() for door in doors))
        yield doors


class Watcher:
    """Reads a job's story with breaks, wherever it gets it, and keeps what it is told."""

    def __init__(self, user: User, keys: UserKeys, doors: list[Door], job_id: str, dice: random.Random) -> None:
        self._user = user
        self._expired = keys.user(user.id, ttl=timedelta(minutes=-2))
        self._doors = doors
        self._job_id = job_id
        self._dice = dice
        self.told: list[job_event_pb2.JobEvent] = []
        self.after = 0
        self.has_ended = False
        self.breaks: set[str] = set()

    async def run(self) -> None:
        while not self.has_ended:
            door = self._dice.choice(self._doors)
            try:
                await self._doubtful_calls(door)
                await self._read_on(door)
            except grpc.aio.AioRpcError as error:
                if error.code() is not CODE.UNAVAILABLE:
                    raise
                self.breaks.add("killed")
                await asyncio.sleep(0.05)

    async def _doubtful_calls(self, door: Door) -> None:
        """What a client with an old token, or a wrong number, is told; neither changes where it is."""
        if self._dice.random() < 0.2:
            error = await _error_of(door.watch(self._expired, self._job_id, self.after))
            assert (error.code(), failure_from_rpc_error(error).reason) == (CODE.UNAUTHENTICATED, "TOKEN_INVALID")
            self.breaks.add("expired")
        if self._dice.random() < 0.2:
            error = await _error_of(door.watch(self._user.metadata, self._job_id, self.after + 100_000))
            assert (error.code(), failure_from_rpc_error(error).reason) == (CODE.OUT_OF_RANGE, "SEQUENCE_AHEAD")
            self.breaks.add("ahead")

    async def _read_on(self, door: Door) -> None:
        stream = door.watch(self._user.metadata, self._job_id, self.after)
        first = await _read(stream)
        assert first.HasField("snapshot"), "the first message is the job as it is"
        assert first.sequence == self.after <= first.snapshot.sequence, "no time travel"
        for _ in range(self._dice.randrange(1, 60)):
            message = await _read(stream)
            if message is grpc.aio.EOF:
                self.has_ended = True
                return
            assert message.sequence >= self.after, "no time travel"
            if message.HasField("event"):
                assert message.event.sequence == message.sequence
                self.told.append(message.event)
            self.after = message.sequence
        stream.cancel()
        self.breaks.add("left")


async def _error_of(stream: Any) -> grpc.aio.AioRpcError:
    """Returns why a stream is refused; that its replica is gone is raised, as it says nothing."""
    try:
        message = await _read(stream)
    except grpc.aio.AioRpcError as error:
        if error.code() is CODE.UNAVAILABLE:
            raise
        return error
    raise AssertionError(f"not refused: {message}")


async def _read(stream: Any) -> Any:
    async with asyncio.timeout(60):
        return await stream.read()


async def _write_story(attempt: Attempt, replica: Replica, dice: random.Random) -> None:
    async with attempt.attach(replica) as stream:
        await stream.started()
        for step in range(1, 250):
            await stream.metrics(step, loss=1 / step)
            if step % 7 == 0:
                await stream.log(f"step {step} " + "x" * dice.choice([0, 3000]))
            if step % 10 == 0:
                await stream.acked(await stream.progress(step))
    await attempt.fail("BAD_DATA", "row 3")


async def _kill_now_and_then(doors: list[Door], dice: random.Random) -> None:
    while True:
        for door in dice.sample(doors, len(doors)):
            await asyncio.sleep(dice.uniform(0.2, 0.8))
            await door.process.kill()
            await door.process.start()


async def test_no_gap_no_repeat_no_time_travel(
    user: User, user_keys: UserKeys, trainer: Trainer, doors: list[Door]
) -> None:
    dice = random.Random(SEED)
    job = await user.create()
    attempt = await trainer.must_claim()
    watchers = [Watcher(user, user_keys, doors, job.id, random.Random(dice.random())) for _ in range(WATCHERS)]
    watching = [asyncio.create_task(watcher.run()) for watcher in watchers]
    killing = asyncio.create_task(_kill_now_and_then(doors, dice))
    try:
        await _write_story(attempt, user.replica, dice)
        async with asyncio.timeout(90):
            await asyncio.gather(*watching)
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    truth = await _recorded(user, job.id)
    assert [event.sequence for event in truth] == list(range(1, len(truth) + 1)), f"seed {SEED}"
    assert training_job_pb2.JobState.Name(truth[-1].state_change.to) == "JOB_STATE_FAILED"
    for watcher in watchers:
        sequences = [event.sequence for event in watcher.told]
        assert sequences == sorted(set(sequences)), f"seed {SEED}: told twice, or out of order"
        skipped = {event.sequence for event in truth} - set(sequences)
        # Who falls far behind while it reads hears of progress the newest only; of all else, everything.
        assert all(truth[sequence - 1].HasField("progress") for sequence in skipped), f"seed {SEED}: a gap"
        assert watcher.told == [event for event in truth if event.sequence not in skipped], f"seed {SEED}"
    breaks = set[str]().union(*(watcher.breaks for watcher in watchers))
    assert breaks == {"killed", "expired", "ahead", "left"}, f"seed {SEED}: {breaks}"


async def _recorded(user: User, job_id: str) -> list[job_event_pb2.JobEvent]:
    events: list[job_event_pb2.JobEvent] = []
    token = ""
    while True:
        request = pb.ListEventsRequest(job_id=job_id, page_size=1000, page_token=token)
        page = await user.training.ListEvents(request, metadata=user.metadata)
        events.extend(page.events)
        token = page.next_page_token
        if not token:
            return events


async def test_a_watch_ends_with_its_token_and_the_next_one_misses_nothing(
    replica: Replica, user: User, user_keys: UserKeys, trainer: Trainer
) -> None:
    job = await user.create()
    request = pb.WatchTrainingJobRequest(job_id=job.id)
    # Whole seconds count, and a slow machine must be able to begin with it.
    nearly = timedelta(seconds=8) - LEEWAY
    stream = replica.training.WatchTrainingJob(request, metadata=user_keys.user(user.id, ttl=nearly))
    assert [(await _read(stream)).sequence for _ in range(2)] == [0, 1]
    failure = await failure_of(all_of(stream))
    assert (failure.code, failure.reason) == (CODE.UNAUTHENTICATED, "TOKEN_EXPIRED")
    assert "go on where it ended" in failure.message
    expired = user_keys.user(user.id, ttl=timedelta(minutes=-2))
    request = pb.WatchTrainingJobRequest(job_id=job.id, after_sequence=1)
    refused = await failure_of(all_of(replica.training.WatchTrainingJob(request, metadata=expired)))
    assert (refused.code, refused.reason) == (CODE.UNAUTHENTICATED, "TOKEN_INVALID")
    await trainer.must_claim()
    onward = replica.training.WatchTrainingJob(request, metadata=user_keys.user(user.id))
    assert [(await _read(onward)).sequence for _ in range(2)] == [1, 2]
    onward.cancel()


async def test_when_a_session_ends_its_watch_and_its_token_do_and_no_other(
    replica: Replica, user: User, user_keys: UserKeys
) -> None:
    job = await user.create()
    request = pb.WatchTrainingJobRequest(job_id=job.id)
    left, stays = (user_keys.user(user.id, session_id=session_id) for session_id in ("ses_left", "ses_stays"))
    ends, goes_on = (replica.training.WatchTrainingJob(request, metadata=metadata) for metadata in (left, stays))
    for stream in (ends, goes_on):
        assert [(await _read(stream)).sequence for _ in range(2)] == [0, 1]

    user_keys.ended_sessions.add("ses_left")

    failure = await failure_of(all_of(ends))
    assert (failure.code, failure.reason) == (CODE.UNAUTHENTICATED, "SESSION_ENDED")
    again = training_service_pb2.GetTrainingJobRequest(job_id=job.id)
    refused = await failure_of(replica.training.GetTrainingJob(again, metadata=left))
    assert (refused.code, refused.reason) == (CODE.UNAUTHENTICATED, "SESSION_ENDED")
    await user.stop(job.id)
    assert (await _read(goes_on)).sequence == 2
    goes_on.cancel()


async def test_too_many_watches_are_refused_and_other_calls_are_served(user: User, start: StartReplica) -> None:
    small = user.at(await start(max_watches=3, max_watches_per_user=2, max_concurrent_rpcs=4))
    job = await user.create()
    request = pb.WatchTrainingJobRequest(job_id=job.id)
    streams = [small.training.WatchTrainingJob(request, metadata=user.metadata) for _ in range(2)]
    for stream in streams:
        assert (await _read(stream)).HasField("snapshot")
    failure = await failure_of(all_of(small.training.WatchTrainingJob(request, metadata=user.metadata)))
    assert (failure.code, failure.reason) == (CODE.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES")
    assert failure.retry_after is not None
    assert (await small.get(job.id)).id == job.id
    streams[0].cancel()

    async def finds_room() -> bool:
        stream = small.training.WatchTrainingJob(request, metadata=user.metadata)
        try:
            return bool((await _read(stream)).HasField("snapshot"))
        except grpc.aio.AioRpcError:
            return False
        finally:
            stream.cancel()

    await assert_eventually(finds_room)
    streams[1].cancel()
