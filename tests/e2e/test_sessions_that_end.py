"""Promise 28: who is signed out or barred is so everywhere within a minute, on streams that are open, too."""

from __future__ import annotations

import asyncio

import grpc
from reeltune.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from reeltune.scheduler.v1 import training_history_pb2, training_service_pb2, training_service_pb2_grpc, worker_pb2

from meshkit.rpc.status import failure_from_rpc_error
from tests.e2e.running_mesh import PASSWORD, RunningMesh
from tests.e2e.trained_job import TrainedJob

SECONDS = 60.0


async def test_a_live_watch_ends_and_no_door_takes_the_token_any_more(stack: RunningMesh, trained: TrainedJob) -> None:
    client = trained.owner.client
    # No trainer here has a GPU: the job waits, and its watch would go on for ever.
    request = training_service_pb2.CreateTrainingJobRequest(
        model_id=trained.model.id, dataset_id=trained.dataset.id, device_class=worker_pb2.DEVICE_CLASS_CUDA
    )
    job = (await client.training.CreateTrainingJob(request)).job
    auth = auth_service_pb2_grpc.AuthServiceStub(stack.channel)
    training = training_service_pb2_grpc.TrainingServiceStub(stack.channel)
    login = auth_service_pb2.LoginRequest(username=trained.owner.user.username, password=PASSWORD)
    token = (await auth.Login(login)).tokens.access_token
    metadata = (("authorization", f"Bearer {token}"),)
    watch = training.WatchTrainingJob(training_history_pb2.WatchTrainingJobRequest(job_id=job.id), metadata=metadata)
    await watch.read()

    await auth.Logout(auth_service_pb2.LogoutRequest(), metadata=metadata)

    assert await reason_of(drained(watch)) == "SESSION_ENDED"
    get = training_service_pb2.GetTrainingJobRequest(job_id=job.id)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port('scheduler')}") as inside:
        direct = training_service_pb2_grpc.TrainingServiceStub(inside)
        assert await reason_of(direct.GetTrainingJob(get, metadata=metadata)) == "SESSION_ENDED"
    assert await reason_of(training.GetTrainingJob(get, metadata=metadata)) == "SESSION_ENDED"
    assert (await client.training.GetTrainingJob(get)).job.id == job.id, "the user's other session goes on"
    await client.training.StopTrainingJob(training_service_pb2.StopTrainingJobRequest(job_id=job.id))


async def drained(stream: grpc.aio.UnaryStreamCall) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def reason_of(call: object) -> str:
    """Why a call failed."""
    try:
        async with asyncio.timeout(SECONDS):
            await call  # type: ignore[misc]  # a call or a coroutine
    except grpc.aio.AioRpcError as error:
        return failure_from_rpc_error(error).reason
    return ""
