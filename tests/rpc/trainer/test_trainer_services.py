"""TrainerService through a real channel to a real trainer process."""

from __future__ import annotations

import grpc
import pytest
from reeltune.trainer.v1 import trainer_service_pb2 as pb
from reeltune.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub

from meshkit.rpc.client import open_channel
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.testing import assert_eventually
from tests.rpc.trainer.fixtures import StartTrainer
from tests.rpc.trainer.mesh_doubles import JOB, OWNER, WORKER, job
from tests.rpc.trainer.running_mesh import Mesh

STRANGER = "usr_01J00000000000000000000002"


async def reason_of(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in call:
            pass
    failure = failure_from_rpc_error(refused.value)
    return failure.code, failure.reason


async def test_the_owner_sees_the_attempt_and_nobody_else_does(mesh: Mesh, start_trainer: StartTrainer) -> None:
    running = job()
    mesh.scheduler.waiting.append(running)
    mesh.jobs.jobs[JOB] = running
    trainer = await start_trainer("obedient")
    async with open_channel(await trainer.address()) as channel:
        stub = TrainerServiceStub(channel)
        owner, stranger = mesh.auth.user(), mesh.auth.user(STRANGER)

        async def attempts(metadata) -> list[pb.Attempt]:
            return list((await stub.ListAttempts(pb.ListAttemptsRequest(), metadata=metadata)).attempts)

        (attempt,) = await assert_eventually(lambda: attempts(owner))
        assert (attempt.job_id, attempt.attempt) == (JOB, 1)
        assert not await attempts(stranger)
        device = await stub.GetDevice(pb.GetDeviceRequest(), metadata=owner)
        assert (device.worker_id, device.device.decoder, device.probing) == (WORKER, "pyav", False)

        seen = []
        watching = stub.WatchProgress(pb.WatchProgressRequest(job_id=JOB), metadata=owner)
        async for message in watching:
            seen.append(message.WhichOneof("report"))
            if {"progress", "metrics", "log"} <= set(seen) and not mesh.scheduler.orders.is_set():
                mesh.scheduler.orders.set()
        # The stream ended by itself, with the attempt.
        assert seen[0] == "progress"
        assert len(mesh.scheduler.completed) == 1


async def test_an_absent_attempt_and_a_foreign_one_look_alike(mesh: Mesh, start_trainer: StartTrainer) -> None:
    running = job()
    mesh.scheduler.waiting.append(running)
    mesh.jobs.jobs[JOB] = running
    trainer = await start_trainer("obedient")
    async with open_channel(await trainer.address()) as channel:
        stub = TrainerServiceStub(channel)
        await assert_eventually(lambda: mesh.scheduler.received)
        watch = pb.WatchProgressRequest(job_id=JOB)
        foreign = await reason_of(stub.WatchProgress(watch, metadata=mesh.auth.user(STRANGER)))
        absent = await reason_of(
            stub.WatchProgress(pb.WatchProgressRequest(job_id=JOB[:-1] + "9"), metadata=mesh.auth.user())
        )

    assert foreign == absent == (grpc.StatusCode.NOT_FOUND, "ATTEMPT_NOT_FOUND")


async def test_tokens_of_others_are_refused(mesh: Mesh, start_trainer: StartTrainer) -> None:
    trainer = await start_trainer("normal")
    worker = mesh.scheduler.mint.user(OWNER)
    async with open_channel(await trainer.address()) as channel:
        stub = TrainerServiceStub(channel)
        for metadata in ((), worker, mesh.auth.user(audience="reeltune-workers")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetDevice(pb.GetDeviceRequest(), metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
