"""`job_accept`: jobs accepted a second by one scheduler replica, against FastAPI + Celery + RabbitMQ.

Accepted means answered OK: ours has then committed the job, its first event and its wake-up in the outbox, knows the
request id so that a retry makes no second job, and has asked the catalog for model and dataset with the user's token.
The baseline (`benchmarks/baselines`) inserts the same job record, with the same parameters checked by pydantic and the
token verified by the same code, into the same Postgres server (fsync and synchronous_commit on), and then publishes a
Celery task to a durable RabbitMQ queue with publisher confirms on. It asks no catalog, keeps no event and knows no
request ids. In neither does anybody consume: with no trainer to wake, ours publishes one wake-up for all jobs that came
since the last, where the baseline has to publish a task for each.

Each is one Python process, reached directly on loopback with 16 calls in flight on kept connections, by clients that
cost next to nothing; all share the machine's cores with their servers and the client. They run in turn, each on empty
tables; each figure is the median of the rounds. The ratio is that of the rates. Shown beside it: ours through the edge,
how long after the load the last wake-up was published, and the baseline with two worker processes.

The specification wants 95 % of its answers within 500 ms (NFR1.1) and the start of a training acknowledged within 2 s
(NFR1.2): the 99th percentiles here, through the edge, are those of the call that does both; `rpc_edge` has a read.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
from google.protobuf.json_format import MessageToDict
from reeltune.auth.v1 import auth_service_pb2
from reeltune.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from reeltune.scheduler.v1 import training_job_pb2, training_parameters_pb2, training_service_pb2

from benchmarks.baselines.celery_server import celery_service
from benchmarks.baselines.http_caller import http_call
from benchmarks.baselines.rabbitmq import installed_script
from benchmarks.grpc_caller import grpc_caller
from benchmarks.load import Call, Load, load_figures, put_load
from benchmarks.mesh_material import BenchMesh, bench_mesh
from benchmarks.report import Result, print_result
from meshkit.rpc.client import bearer

CALLERS = 16
SECONDS = 4.0
ROUNDS = 5
GOAL = 2.0
RPC = "/reeltune.scheduler.v1.TrainingService/CreateTrainingJob"
NAME = "bench"
RANK, MAX_STEPS, BATCH_SIZE = 8, 300, 4


async def main() -> None:
    installed_script()  # before minutes are spent on ours
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        mesh = await stack.enter_async_context(bench_mesh(work, "--no-trainer"))
        ours = {
            "ours": await stack.enter_async_context(direct_calls(mesh)),
            "ours_through_edge": await stack.enter_async_context(edge_calls(mesh)),
        }
        rounds: list[dict[str, Load]] = []
        emptied: list[float] = []
        for number in range(ROUNDS):
            rounds.append({})
            for name, calls in ours.items():
                rounds[-1][name] = await warm_load(calls)
                emptied.append(await clear_jobs(mesh))
            rounds[-1]["celery"] = await celery_load(mesh, work / f"celery{number}", workers=1)
            rounds[-1]["celery_two_workers"] = await celery_load(mesh, work / f"celery_two{number}", workers=2)
    ratios = [each["ours"].rate / each["celery"].rate for each in rounds]
    figures: dict[str, float] = {}
    for name in rounds[0]:
        figures |= load_figures(name, "jobs", [each[name] for each in rounds])
    figures |= {
        "ours_outbox_empty_after_seconds": statistics.median(emptied),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
    }
    print_result(Result("job_accept", statistics.median(ratios), GOAL, higher_is_better=True, figures=figures))


async def warm_load(calls: Sequence[Call]) -> Load:
    """The load after a second of it that does not count."""
    await put_load(calls, 1.0)
    return await put_load(calls, SECONDS)


async def clear_jobs(mesh: BenchMesh) -> float:
    """Waits until every wake-up is published, then removes the jobs; returns the seconds waited."""
    began = time.perf_counter()
    connection = await asyncpg.connect(mesh.postgres.dsn())
    try:
        async with asyncio.timeout(120):
            while await connection.fetchval("SELECT EXISTS (SELECT FROM scheduler.outbox)"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        waited = time.perf_counter() - began
        # Idle as before: nothing of ours may run while the other one is measured.
        await connection.execute("TRUNCATE scheduler.jobs, scheduler.outbox CASCADE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    return waited


@asynccontextmanager
async def direct_calls(mesh: BenchMesh) -> AsyncIterator[Sequence[Call]]:
    """CALLERS calls on the service's own port."""
    metadata = bearer(await mesh.client.session.access_token())
    async with grpc_caller(mesh.ports["scheduler"], RPC, metadata) as caller:

        async def call() -> training_service_pb2.CreateTrainingJobResponse:
            answer = await caller.call(our_request(mesh).SerializeToString())
            return training_service_pb2.CreateTrainingJobResponse.FromString(answer)

        # Read in full once; what the answers hold is not what is measured.
        assert (await call()).job.state == training_job_pb2.JOB_STATE_QUEUED
        yield [lambda: caller.call(our_request(mesh).SerializeToString())] * CALLERS


@asynccontextmanager
async def edge_calls(mesh: BenchMesh) -> AsyncIterator[Sequence[Call]]:
    """CALLERS calls by a gRPC channel through the edge."""
    yield [lambda: mesh.client.training.CreateTrainingJob(our_request(mesh))] * CALLERS


def our_request(mesh: BenchMesh) -> training_service_pb2.CreateTrainingJobRequest:
    """A job, each time with a request id of its own, as the `reeltune` command sends it."""
    return training_service_pb2.CreateTrainingJobRequest(
        name=NAME,
        model_id=mesh.model_id,
        dataset_id=mesh.dataset_id,
        parameters=training_parameters_pb2.TrainingParameters(
            lora=training_parameters_pb2.LoraParameters(rank=RANK),
            optimization=training_parameters_pb2.OptimizationParameters(max_steps=MAX_STEPS, batch_size=BATCH_SIZE),
        ),
        request_id=str(uuid.uuid4()),
    )


async def celery_load(mesh: BenchMesh, folder: Path, *, workers: int) -> Load:
    """The same jobs for the baseline, which is started for this and stopped afterwards."""
    body = {
        "name": NAME,
        "model_id": mesh.model_id,
        "dataset_id": mesh.dataset_id,
        "parameters": {
            "lora": {"rank": RANK},
            "optimization": {"max_steps": MAX_STEPS, "batch_size": BATCH_SIZE},
        },
    }
    token = await mesh.client.session.access_token()
    async with AsyncExitStack() as stack:
        service = celery_service(folder, mesh.postgres, await key_set(mesh), workers=workers)
        port = await stack.enter_async_context(service)
        calls = [
            await stack.enter_async_context(http_call(port, "/trainings", token, json.dumps(body).encode(), 201))
            for _ in range(CALLERS)
        ]
        return await warm_load(calls)


async def key_set(mesh: BenchMesh) -> dict[str, Any]:
    """The public keys that the user's token is verified with."""
    response = await AuthServiceStub(mesh.client.channel).GetJwks(auth_service_pb2.GetJwksRequest())
    return {"keys": [MessageToDict(key, preserving_proto_field_name=True) for key in response.keys]}


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except FileNotFoundError as error:
        sys.exit(f"job_accept: {error}")
