"""Schedulers that die, stop and hang: promises 1, 2, 12, 15, 19, 41 and 43."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
import uuid
from functools import partial
from typing import Any

import grpc
import pytest
from reeltune.scheduler.v1 import job_event_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from meshkit.testing import assert_eventually
from tests.faults.fault_mesh import FaultMesh
from tests.faults.mesh_user import Directly, MeshUser, rehearsal
from tests.faults.watched_job import WatchedJob

QUICK = rehearsal(2, 0, checkpoint_every_steps=0)
EXIT_SECONDS = 60


@pytest.mark.parametrize(
    "failpoint",
    [
        "job.create.before_insert=kill",
        "job.create.before_commit=kill",
        "job.create.after_commit=kill",
        "job.create.after_commit=disconnect",
    ],
)
async def test_create_is_all_or_nothing(mesh: FaultMesh, user: MeshUser, dice: random.Random, failpoint: str) -> None:
    replica = mesh.schedulers[0]
    # Jobs that come together share a transaction, and a commit: only the answers are one for each.
    visit = dice.randint(1, 5) if "after_commit" in failpoint else 1
    await replica.restart(failpoints=f"{failpoint}:{visit}")
    name = f"create {uuid.uuid4().hex}"
    requests = [user.request(QUICK, name=name) for _ in range(6)]
    async with user.at(replica) as directly:
        answers = await asyncio.gather(*(directly.create(each) for each in requests), return_exceptions=True)
    assert replica.reached(failpoint.partition("=")[0])
    assert any(isinstance(answer, grpc.aio.AioRpcError) for answer in answers)

    jobs = [await user.submit(each) for each in requests]

    for answer, job in zip(answers, jobs, strict=True):
        assert isinstance(answer, grpc.aio.AioRpcError) or answer == job, "what was answered OK is there, and the same"
    assert sorted(await user.list_ids(name)) == sorted(job.id for job in jobs), "one job for each request"
    assert {each.state for each in await user.all_ended([job.id for job in jobs])} == {"COMPLETED"}


async def test_equal_requests_whose_answers_are_lost_make_one_job(mesh: FaultMesh, user: MeshUser) -> None:
    await mesh.schedulers[0].restart(failpoints="job.create.after_commit=disconnect")
    name = f"equal {uuid.uuid4().hex}"
    request = user.request(QUICK, name=name)
    async with user.at(mesh.schedulers[0]) as first, user.at(mesh.schedulers[1]) as second:

        async def until_answered(replica: Directly) -> job_pb2.TrainingJob:
            return await user.patiently(lambda: replica.create(request))

        answers = await asyncio.gather(*(until_answered(each) for each in [first, second] * 10))

    assert mesh.schedulers[0].reached("job.create.after_commit")
    assert all(answer == answers[0] for answer in answers)
    assert await user.list_ids(name) == [answers[0].id]


async def test_a_scheduler_that_is_told_to_go_goes_and_loses_nothing(mesh: FaultMesh, user: MeshUser) -> None:
    replica = mesh.schedulers[0]
    job = await user.create(rehearsal(100, 50))
    async with user.at(replica) as directly:
        request = history.WatchTrainingJobRequest(job_id=job.id)
        watches = [directly.training.WatchTrainingJob(request, metadata=directly.metadata) for _ in range(10)]
        for watch in watches:
            await watch.read()
        watching = [asyncio.create_task(code_at_the_end(watch)) for watch in watches]
        requests = [user.request(QUICK) for _ in range(50)]
        calls = [asyncio.create_task(directly.create(each)) for each in requests]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        began = time.monotonic()

        assert await replica.terminate() == 0

        assert time.monotonic() - began < EXIT_SECONDS
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert set(await asyncio.gather(*watching)) == {grpc.StatusCode.UNAVAILABLE}
    answered = [answer for answer in answers if isinstance(answer, job_pb2.TrainingJob)]
    assert answered
    for answer in answered:
        assert (await user.get(answer.id)).create_time == answer.create_time
    await user.stop(job.id)
    assert {each.state for each in await user.all_ended([each.id for each in answered])} == {"COMPLETED"}


async def code_at_the_end(watch: Any) -> grpc.StatusCode:
    """Reads a watch to its end and returns how it ended."""
    try:
        while await watch.read() is not grpc.aio.EOF:
            pass
        return await watch.code()
    except grpc.aio.AioRpcError as error:
        return error.code()


async def test_a_job_that_outlives_ten_schedulers_keeps_its_attempt_and_its_watchers(
    mesh: FaultMesh, user: MeshUser, dice: random.Random
) -> None:
    created = await user.create(rehearsal(120, 100))
    starts = sum(scheduler.starts for scheduler in mesh.schedulers)
    watches = [WatchedJob(user.client, created.id) for _ in range(4)]
    try:
        await assert_eventually(lambda: any(event.HasField("metrics") for event in watches[0].events))
        for scheduler in itertools.islice(itertools.cycle(mesh.schedulers), 10):
            if scheduler.pid is None:
                await scheduler.start()
            scheduler.signal(signal.SIGKILL)
            # Once in a while both are down at once.
            await asyncio.sleep(dice.uniform(0.0, 0.6))
        ended = await user.ended(created.id)
        told = [(await watch.until_ended(), watch.events)[1] for watch in watches]
    finally:
        for watch in watches:
            await watch.close()

    assert sum(scheduler.starts for scheduler in mesh.schedulers) - starts >= 9
    assert ended.life.states == ("QUEUED", "STARTING", "RUNNING", "COMPLETED")
    assert all(events == ended.events for events in told), "each watch told every event once and in order"
    losses = [event.metrics.step for event in ended.events if "loss" in event.metrics.values]
    assert losses == sorted(set(losses))


async def test_a_watch_outlives_resets_and_edges(mesh: FaultMesh, user: MeshUser, dice: random.Random) -> None:
    created = await user.create(rehearsal(40, 100))
    watches = [WatchedJob(user.client, created.id) for _ in range(3)]
    try:
        for _ in range(3):
            await asyncio.sleep(dice.uniform(0.2, 1.0))
            await mesh.edge.kill()
            await mesh.edge.start()
        ended = await user.ended(created.id)
        for watch in watches:
            await watch.until_ended()
            assert watch.events == ended.events
    finally:
        for watch in watches:
            await watch.close()
    assert ended.life.attempts == (1,)


async def test_a_stop_that_was_answered_wins(mesh: FaultMesh, user: MeshUser, dice: random.Random) -> None:
    """Beside the five hundred races of `test_scheduler_attempts.py`, in the stores: real trainers, at every stage."""
    jobs = [await user.create(rehearsal(4, 30)) for _ in range(16)]

    async def stop_some_time(job_id: str) -> bool:
        await asyncio.sleep(dice.uniform(0, 6))
        try:
            await user.stop(job_id)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return False
        return True

    was_stopped = await asyncio.gather(*(stop_some_time(job.id) for job in jobs))
    ended = await user.all_ended([job.id for job in jobs])

    for is_stopped, each in zip(was_stopped, ended, strict=True):
        assert each.state == ("STOPPED" if is_stopped else "COMPLETED"), each.job


async def test_a_frozen_scheduler_is_passed_by(mesh: FaultMesh, user: MeshUser) -> None:
    """Trainers reach the replicas by a plain proxy that looks at nobody's health; one after the other is frozen, so
    that every trainer is once attached to the one that is."""
    for replica in mesh.schedulers:
        jobs = [(await user.create(rehearsal(60, 100))).id for _ in mesh.trainers]
        await asyncio.gather(*(assert_eventually(partial(has_begun, user, job_id), timeout=60) for job_id in jobs))

        replica.freeze()
        queued = await user.create(QUICK)
        ended = await user.all_ended([*jobs, queued.id])

        assert {(each.state, each.life.attempts) for each in ended} == {("COMPLETED", (1,))}
        assert all(steps_of(each.events) == list(range(1, 61)) for each in ended[:-1])
        replica.thaw()


async def has_begun(user: MeshUser, job_id: str) -> bool:
    return (await user.get(job_id)).progress.step > 1


def steps_of(events: list[job_event_pb2.JobEvent]) -> list[int]:
    return [event.metrics.step for event in events if "loss" in event.metrics.values]
