"""A trainer is taken out of service by an admin, wherever its stream is, and put back."""

from __future__ import annotations

from uuid import uuid4

import grpc
import pytest
from reeltune.scheduler.v1 import worker_pb2
from reeltune.scheduler.v1 import worker_service_pb2 as pb

from tests.rpc.scheduler.conftest import NewUser, StartReplica
from tests.rpc.scheduler.scheduler_mesh import Replica, Trainer, User, failure_of

CODE = grpc.StatusCode
ABSENT = "wrk_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture
def admin(new_user: NewUser) -> User:
    return new_user("user", "admin")


async def drain(admin: User, worker_id: str, **fields: str) -> worker_pb2.Worker:
    request = pb.DrainWorkerRequest(worker_id=worker_id, **fields)
    return (await admin.replica.workers.DrainWorker(request, metadata=admin.metadata)).worker


async def resume(admin: User, worker_id: str, **fields: str) -> worker_pb2.Worker:
    request = pb.ResumeWorkerRequest(worker_id=worker_id, **fields)
    return (await admin.replica.workers.ResumeWorker(request, metadata=admin.metadata)).worker


def state(worker: worker_pb2.Worker) -> str:
    return worker_pb2.WorkerState.Name(worker.state).removeprefix("WORKER_STATE_")


async def test_a_drain_at_one_replica_reaches_a_stream_at_another(
    admin: User, user: User, trainer: Trainer, start: StartReplica
) -> None:
    other = await start()
    job = await user.create()
    attempt = await trainer.must_claim()
    async with attempt.attach(other) as stream:
        await stream.started()
        assert not stream.must_drain
        worker = await drain(admin, trainer.worker_id)
        assert (state(worker), list(worker.job_ids)) == ("DRAINING", [job.id])
        assert worker.HasField("drain_time")
        await stream.until(lambda: stream.must_drain)
        assert not stream.must_stop
    assert await attempt.fail("PREEMPTED") == "QUEUED"
    again = await user.get(job.id)
    assert again.attempt == 1
    request = pb.GetWorkerRequest(worker_id=trainer.worker_id)
    drained = (await admin.replica.workers.GetWorker(request, metadata=admin.metadata)).worker
    assert state(drained) == "DRAINED"
    assert await trainer.claim() is None, "it gets nothing any more"
    second = await Trainer(admin.replica).register()
    assert (await second.must_claim()).job_id == job.id


async def test_an_order_is_repeated_to_who_attaches_again_and_with_every_heartbeat(
    admin: User, user: User, trainer: Trainer, start: StartReplica
) -> None:
    await user.create()
    attempt = await trainer.must_claim()
    await drain(admin, trainer.worker_id)
    async with attempt.attach(await start()) as stream:
        assert stream.must_drain
        await stream.heartbeat()
        assert all(reply.order for reply in stream.replies)


async def test_a_stop_goes_before_a_drain(admin: User, user: User, trainer: Trainer) -> None:
    job = await user.create()
    attempt = await trainer.must_claim()
    await drain(admin, trainer.worker_id)
    await user.stop(job.id)
    async with attempt.attach() as stream:
        assert stream.must_stop
        assert not stream.must_drain


async def test_a_drained_trainer_stays_so_when_it_comes_back_until_it_is_resumed(
    admin: User, user: User, trainer: Trainer
) -> None:
    assert state(await drain(admin, trainer.worker_id)) == "DRAINED"
    await trainer.register()
    job = await user.create()
    assert await trainer.claim() is None
    queue = (await user.get(job.id)).queue
    assert "told to take no more jobs" in queue.message
    assert state(await resume(admin, trainer.worker_id)) == "IDLE"
    assert (await trainer.must_claim()).job_id == job.id


async def test_draining_is_safe_to_repeat(admin: User, trainer: Trainer, start: StartReplica) -> None:
    request_id = str(uuid4())
    first = await drain(admin, trainer.worker_id, request_id=request_id)
    await resume(admin, trainer.worker_id)
    assert await drain(admin.at(await start()), trainer.worker_id, request_id=request_id) == first
    request = pb.GetWorkerRequest(worker_id=trainer.worker_id)
    worker = (await admin.replica.workers.GetWorker(request, metadata=admin.metadata)).worker
    assert state(worker) == "IDLE", "a repetition does nothing"
    failure = await failure_of(resume(admin, trainer.worker_id, request_id=request_id))
    assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_only_admins_drain(admin: User, user: User, trainer: Trainer, replica: Replica) -> None:
    for call in (drain, resume):
        failure = await failure_of(call(user, trainer.worker_id))
        assert (failure.code, failure.reason) == (CODE.PERMISSION_DENIED, "ROLE_REQUIRED")
        failure = await failure_of(call(admin, ABSENT))
        assert (failure.code, failure.reason) == (CODE.NOT_FOUND, "WORKER_NOT_FOUND")
