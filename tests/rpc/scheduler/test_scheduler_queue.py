"""Where in the queue a job is and why it waits, as its owner and those who watch it see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from reeltune.scheduler.v1 import (
    queue_status_pb2,
    rehearsal_pb2,
    training_history_pb2,
    training_job_pb2,
    training_parameters_pb2,
)
from reeltune.scheduler.v1 import training_service_pb2 as pb

from meshkit.testing import assert_eventually
from tests.rpc.scheduler.conftest import NewUser, StartReplica
from tests.rpc.scheduler.scheduler_mesh import Replica, Trainer, User, failure_of

CODE = grpc.StatusCode


def reason(status: queue_status_pb2.QueueStatus) -> str:
    return queue_status_pb2.WaitReason.Name(status.reason).removeprefix("WAIT_REASON_")


class Watcher:
    """Somebody who watches a job; keeps all that is told."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.messages: list[training_history_pb2.WatchTrainingJobResponse] = []

    async def read(self) -> None:
        async for message in self.call:
            self.messages.append(message)

    @property
    def told(self) -> list[str]:
        """What the messages were, in order."""
        return [
            f"queue {reason(message.queue)} {message.queue.position}" if message.HasField("queue") else
            f"event {message.event.sequence}" if message.HasField("event") else str(message.WhichOneof("update"))
            for message in self.messages
        ]  # fmt: skip


@asynccontextmanager
async def watching(user: User, job_id: str, after: int = 0) -> AsyncIterator[Watcher]:
    request = training_history_pb2.WatchTrainingJobRequest(job_id=job_id, after_sequence=after)
    watcher = Watcher(user.training.WatchTrainingJob(request, metadata=user.metadata))
    reading = asyncio.create_task(watcher.read())
    yield watcher
    watcher.call.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_a_job_that_nobody_can_take_says_so_at_once(user: User) -> None:
    job = await user.create()
    queue = (await user.get(job.id)).queue
    assert (reason(queue), queue.position) == ("NO_TRAINER", 0)
    assert not queue.HasField("estimated_start_time")


async def test_what_no_trainer_has_is_named(user: User, replica: Replica) -> None:
    await Trainer(replica).register(name="rack-1", memory_bytes=16 * 10**9, device_count=1)
    job = await user.create(device_count=2, device_memory_bytes=24 * 10**9)
    queue = (await user.get(job.id)).queue
    assert reason(queue) == "NO_FITTING_TRAINER"
    for word in ("2 devices of at least 24.0 GB", "rack-1", "1 CPU device of 16.0 GB"):
        assert word in queue.message


async def test_places_in_the_list_and_the_fair_order(new_user: NewUser, trainer: Trainer) -> None:
    a, b = new_user(), new_user()
    first = await a.create()
    await trainer.must_claim()
    waiting = [await a.create() for _ in range(3)]
    urgent = await a.create(priority=5)
    other = await b.create()
    listed = (await a.training.ListTrainingJobs(pb.ListTrainingJobsRequest(), metadata=a.metadata)).jobs
    places = {job.id: job.queue.position for job in listed}
    assert places[first.id] == 0
    assert not next(job for job in listed if job.id == first.id).HasField("queue")
    assert (await b.get(other.id)).queue.position == 1, "b has nothing running"
    assert [places[job.id] for job in (urgent, *waiting)] == [2, 3, 4, 5]
    assert {reason(job.queue) for job in listed if job.HasField("queue")} == {"TRAINERS_BUSY"}


async def test_the_first_in_the_queue_learns_when_it_will_start(user: User, trainer: Trainer) -> None:
    await user.create()
    attempt = await trainer.must_claim()
    waiting = await user.create()
    async with attempt.attach() as stream:
        await stream.started(100)
        await stream.acked(await stream.progress(50, total_steps=100, fraction=0.5))

        async def is_estimated() -> bool:
            return (await user.get(waiting.id)).queue.HasField("estimated_start_time")

        await assert_eventually(is_estimated)
    queue = (await user.get(waiting.id)).queue
    assert (queue.position, reason(queue)) == (1, "TRAINERS_BUSY")


async def test_a_watcher_is_told_the_place_whenever_it_changes(user: User, replica: Replica) -> None:
    ahead, job = await user.create(), await user.create()
    async with watching(user, job.id) as watcher:
        await assert_eventually(lambda: "queue NO_TRAINER 0" in watcher.told)
        trainer = await Trainer(replica).register()
        await assert_eventually(lambda: "queue TRAINERS_BUSY 2" in watcher.told)
        assert (await trainer.must_claim()).job_id == ahead.id
        await assert_eventually(lambda: "queue TRAINERS_BUSY 1" in watcher.told)
        other = await Trainer(replica).register()
        await assert_eventually(lambda: "queue ABOUT_TO_START 1" in watcher.told)
        await other.must_claim()
        await assert_eventually(lambda: "event 2" in watcher.told)
    assert watcher.told[:2] == ["snapshot", "event 1"]
    queues = [told for told in watcher.told if told.startswith("queue")]
    assert len(queues) == len(set(queues)), "nothing is told twice"
    assert not any(told.startswith("queue") for told in watcher.told[watcher.told.index("event 2") :])
    assert all(message.sequence == 1 for message in watcher.messages if message.HasField("queue"))


async def test_a_watcher_of_a_running_job_hears_nothing_of_the_queue(
    user: User, trainer: Trainer, start: StartReplica
) -> None:
    job = await user.create()
    async with watching(user, job.id) as early:
        await assert_eventually(lambda: any(told.startswith("queue") for told in early.told))
        await trainer.must_claim()
        async with watching(user, job.id) as late:
            await assert_eventually(lambda: "event 2" in late.told)
    assert not any(told.startswith("queue") for told in late.told)


async def test_the_snapshot_of_a_watch_tells_the_place_of_a_job_that_waits(user: User, trainer: Trainer) -> None:
    running = await user.create()
    attempt = await trainer.must_claim()
    waiting = [await user.create() for _ in range(2)]
    async with attempt.attach() as stream:
        await stream.started(100)
        await stream.acked(await stream.progress(50, total_steps=100, fraction=0.5))

        async def snapshot(job_id: str) -> training_job_pb2.TrainingJob:
            async with watching(user, job_id) as watcher:
                await assert_eventually(lambda: "snapshot" in watcher.told[:1])
            return watcher.messages[0].snapshot

        async def is_estimated() -> bool:
            return (await snapshot(waiting[0].id)).queue.HasField("estimated_start_time")

        await assert_eventually(is_estimated)
        for place, job in enumerate(waiting, start=1):
            queue = (await snapshot(job.id)).queue
            assert (queue.position, reason(queue)) == (place, "TRAINERS_BUSY")
        assert not (await snapshot(running.id)).HasField("queue")


async def test_a_rehearsal_needs_a_trainer_that_was_started_for_it(user: User, replica: Replica) -> None:
    await Trainer(replica).register()
    parameters = training_parameters_pb2.TrainingParameters(rehearsal=rehearsal_pb2.RehearsalParameters())
    failure = await failure_of(user.create(parameters=parameters))
    assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "RECIPE_UNAVAILABLE")
    assert failure.metadata == {"recipe": "REHEARSAL"}
    await Trainer(replica).register(recipes=["QLORA", "REHEARSAL"])
    job = await user.create(parameters=parameters)
    assert reason((await user.get(job.id)).queue) == "ABOUT_TO_START"
