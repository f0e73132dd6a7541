"""Servers that go away and come back are a delay and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest_asyncio
from reeltune.scheduler.v1 import training_history_pb2

from meshkit.embedded import PostgresServer
from meshkit.testing import assert_eventually
from tests.rpc.scheduler.conftest import StartReplica
from tests.rpc.scheduler.scheduler_mesh import Replica, Trainer, User, all_of, failure_of, state_name

CODE = grpc.StatusCode


@pytest_asyncio.fixture(loop_scope="session")
async def own_postgres(tmp_path: Path) -> AsyncIterator[PostgresServer]:
    """A database server that this test may kill."""
    server = PostgresServer(tmp_path / "postgres")
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def exposed(own_postgres: PostgresServer, start: StartReplica) -> Replica:
    """A replica on that server, without any broker."""
    dsn = await own_postgres.create_role_and_schema("scheduler", "password", "scheduler")
    return await start(postgres_dsn=dsn, nats_url="nats://127.0.0.1:9", lease_seconds=60)


async def test_a_database_that_is_killed_is_a_delay(exposed: Replica, own_postgres: PostgresServer, user: User) -> None:
    user = user.at(exposed)
    trainer = await Trainer(exposed).register()
    job = await user.create()
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
        await stream.acked(await stream.log("before"))
        await own_postgres.kill()
        failure = await failure_of(user.get(job.id))
        assert failure.code is CODE.UNAVAILABLE
        await stream.log("while away")
        error = await stream.ended()
        assert error is not None
        assert error.code() is CODE.UNAVAILABLE
    await own_postgres.start()

    async def is_back() -> bool:
        try:
            return await user.state(job.id) == "RUNNING"
        except grpc.aio.AioRpcError:
            return False

    await assert_eventually(is_back)
    watch = asyncio.create_task(
        all_of(
            exposed.training.WatchTrainingJob(
                training_history_pb2.WatchTrainingJobRequest(job_id=job.id), metadata=user.metadata
            )
        )
    )
    async with attempt.attach() as stream:
        assert stream.acknowledged == 2
        await stream.acked(await stream.log("while away"))
    assert await attempt.complete(await attempt.put_files({"a": b"1"})) == "COMPLETED"
    messages = await watch
    assert state_name(messages[-1].event.state_change.to) == "COMPLETED"
    assert messages[-1].event.attempt == 1


async def test_without_a_broker_jobs_run_by_asking(exposed: Replica, user: User) -> None:
    user = user.at(exposed)
    trainer = await Trainer(exposed).register()
    jobs = {(await user.create()).id for _ in range(3)}
    for _ in jobs:
        attempt = await trainer.must_claim()
        async with attempt.attach() as stream:
            await stream.started()
        assert await attempt.complete(await attempt.put_files({"a": b"1"})) == "COMPLETED"
        jobs = jobs - {attempt.job_id}
    assert not jobs
