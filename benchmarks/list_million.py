"""`list_million`: what users read most, with a million jobs in the database, against the same with a thousand.

The rpcs are called one after the other on the scheduler's own port. The caller owns a tenth of the jobs, the newest 200
wait and 50 run, in both cases; each job has a few events and an attempt. Jobs are made in bulk by SQL: a thousand, a
million, and a thousand again, the tables emptied in between. Each figure is the median of the calls of one kind, the
best of the rounds. The ratio is that of the kind that suffers most. The plans behind it are guarded by
`tests/integration/scheduler/test_scheduler_query_plans.py`.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import grpc
from reeltune.auth.v1 import user_service_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub

from benchmarks.bulk_jobs import fill, job_id
from benchmarks.mesh_material import BenchMesh, bench_mesh
from benchmarks.report import Result, print_result
from meshkit.rpc.client import bearer

FEW, MANY = 1_000, 1_000_000
OWNERS, QUEUED, RUNNING = 10, 200, 50
CALLS, ROUNDS = 60, 4
GOAL = 1.5

Call = Callable[[], Awaitable[object]]


async def main() -> None:
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        mesh = await stack.enter_async_context(bench_mesh(work, "--no-trainer"))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{mesh.ports['scheduler']}"))
        stub = TrainingServiceStub(channel)
        owner = (await mesh.client.users.GetMe(user_service_pb2.GetMeRequest())).user.id
        seconds: dict[int, dict[str, float]] = {}
        filling: dict[int, float] = {}
        for jobs in (FEW, MANY, FEW):
            filling[jobs] = await fill_anew(mesh, jobs, owner)
            found = await measured(stub, bearer(await mesh.client.session.access_token()), jobs)
            seconds[jobs] = {name: min(took, seconds.get(jobs, found)[name]) for name, took in found.items()}
    ratios = {name: seconds[MANY][name] / seconds[FEW][name] for name in seconds[FEW]}
    figures = {f"{name}_ratio": ratio for name, ratio in ratios.items()}
    for name in ratios:
        figures[f"{name}_thousand_milliseconds"] = seconds[FEW][name] * 1e3
        figures[f"{name}_million_milliseconds"] = seconds[MANY][name] * 1e3
    figures["seconds_to_make_a_million_jobs"] = filling[MANY]
    print_result(Result("list_million", max(ratios.values()), GOAL, higher_is_better=False, figures=figures))


async def fill_anew(mesh: BenchMesh, jobs: int, owner: str) -> float:
    """Empties the tables and makes so many jobs; returns the seconds it took."""
    connection = await asyncpg.connect(mesh.postgres.dsn())
    try:
        began = time.perf_counter()
        await connection.execute("SET search_path = scheduler")
        await connection.execute("TRUNCATE jobs, outbox, device_usage CASCADE")
        await fill(connection, jobs, owners=OWNERS, queued=QUEUED, running=RUNNING, first_owner=owner)
        await connection.execute("CHECKPOINT", timeout=300)
        return time.perf_counter() - began
    finally:
        await connection.close()


async def measured(stub: Any, metadata: Any, jobs: int) -> dict[str, float]:
    """Seconds that a call of each kind takes."""
    calls = await calls_of(stub, metadata, jobs)
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            median = statistics.median([await seconds_of(call) for _ in range(CALLS)])
            best[name] = min(median, best.get(name, median))
    return best


async def seconds_of(call: Call) -> float:
    """What one call takes."""
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def calls_of(stub: Any, metadata: Any, jobs: int) -> dict[str, Call]:
    """The calls, by name; the caller's jobs are those whose number OWNERS divides."""
    dice = random.Random(jobs)
    finished = range(OWNERS, jobs - QUEUED - RUNNING, OWNERS)
    waiting = range(jobs - QUEUED + OWNERS, jobs, OWNERS)

    def one(rpc: str, request_type: Any, numbers: range, **fields: Any) -> Call:
        method = getattr(stub, rpc)

        async def call() -> object:
            return await method(request_type(job_id=job_id(dice.choice(numbers)), **fields), metadata=metadata)

        return call

    def listing(**fields: Any) -> Call:
        async def call() -> object:
            return await stub.ListTrainingJobs(pb.ListTrainingJobsRequest(page_size=20, **fields), metadata=metadata)

        return call

    return {
        "get": one("GetTrainingJob", pb.GetTrainingJobRequest, finished),
        "get_waiting": one("GetTrainingJob", pb.GetTrainingJobRequest, waiting),
        "list": listing(),
        "list_on": listing(page_token=await deep_token(stub, metadata)),
        "list_running": listing(filter="state = RUNNING"),
        "list_by_name": listing(filter='name : "job"'),
        "events": one("ListEvents", history.ListEventsRequest, finished),
        "logs": one("ListLogs", history.ListLogsRequest, finished),
        "metrics": one("ListMetrics", history.ListMetricsRequest, finished),
        "metrics_in_buckets": one("ListMetrics", history.ListMetricsRequest, finished, max_points=500),
    }


async def deep_token(stub: Any, metadata: Any) -> str:
    """Asks for a page behind others: 60 jobs down, which is as far as a thousand jobs reach."""
    token = ""
    for _ in range(3):
        request = pb.ListTrainingJobsRequest(page_size=20, page_token=token)
        token = (await stub.ListTrainingJobs(request, metadata=metadata)).next_page_token
    return token


if __name__ == "__main__":
    asyncio.run(main())
