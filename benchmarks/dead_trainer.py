"""`dead_trainer`: from kill -9 of a trainer to its job being queued again, against 40 s.

Twenty trainers, with the heartbeat, lease and sweep of production (5 s, 30 s, 5 s), each run a job that rehearses; each
is killed at a random moment of its heartbeat, so that they die within seconds of each other and nobody is told. Both
times are the database's: when the kill was sent, and the event that says QUEUED by LEASE_LOST. The ratio is that of the
slowest to 40 s. The baseline is the lease of 30 s: sooner, a trainer that was only slow would lose its job.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from benchmarks.load import quantile
from benchmarks.mesh_material import bench_mesh
from benchmarks.rehearsals import rehearsal_trainer, submit_rehearsal
from benchmarks.report import Result, print_result
from meshkit.embedded.process import running
from meshkit.postgres import Pool
from reeltune_cli.stack.service_process import ServiceProcess

TRAINERS = 20
STARTED_AT_ONCE = 2
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 30.0
GOAL_SECONDS = 40.0
SEED = 1
RUNNING = """
SELECT job.id, worker.name FROM scheduler.jobs AS job JOIN scheduler.workers AS worker ON worker.id = job.worker_id
WHERE job.state = 'RUNNING'
"""
QUEUED_AGAIN = """
SELECT job_id, extract(epoch FROM create_time)::float8 AS seconds FROM scheduler.job_events
WHERE body ->> 'to' = 'QUEUED' AND body ->> 'reason' = 'LEASE_LOST'
"""


async def main() -> None:
    dice = random.Random(SEED)
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        mesh = await stack.enter_async_context(bench_mesh(work, "--no-trainer"))
        names = [f"trainer-{number:02}" for number in range(TRAINERS)]
        trainers = {name: rehearsal_trainer(mesh, work / name, name) for name in names}
        await start_all(stack, trainers)
        for _ in names:
            await submit_rehearsal(mesh, steps=10_000, step_milliseconds=1000)
        database = await stack.enter_async_context(
            asyncpg.create_pool(mesh.postgres.dsn(), min_size=TRAINERS, max_size=TRAINERS)
        )
        jobs = await running_jobs(database)
        killed = dict(
            await asyncio.gather(
                *(
                    kill(database, job_id, trainers[name], dice.uniform(0, 2 * HEARTBEAT_SECONDS))
                    for job_id, name in jobs.items()
                )
            )
        )
        queued = await queued_again(database)
    seconds = sorted(queued[job_id] - killed[job_id] for job_id in killed)
    print_result(
        Result(
            name="dead_trainer",
            ratio=seconds[-1] / GOAL_SECONDS,
            goal=1.0,
            higher_is_better=False,
            figures={
                "kills": float(len(seconds)),
                "soonest_seconds": seconds[0],
                "p50_seconds": quantile(seconds, 0.5),
                "p100_seconds": seconds[-1],
                "lease_seconds": LEASE_SECONDS,
            },
        )
    )


async def start_all(stack: AsyncExitStack, trainers: dict[str, ServiceProcess]) -> None:
    """Starts the trainers, a few at a time."""
    turn = asyncio.Semaphore(STARTED_AT_ONCE)

    async def start(trainer: ServiceProcess) -> None:
        async with turn:
            await stack.enter_async_context(running(trainer))

    await asyncio.gather(*map(start, trainers.values()))


async def running_jobs(database: Pool) -> dict[str, str]:
    """Waits until every trainer has made a step of a job; returns the trainer's name by job."""
    async with asyncio.timeout(120):
        while len(rows := await database.fetch(RUNNING)) < TRAINERS:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return {row["id"]: row["name"] for row in rows}


async def kill(database: Pool, job_id: str, trainer: ServiceProcess, delay: float) -> tuple[str, float]:
    """Kills a trainer after the delay; returns its job and when that was, by the database's clock."""
    await asyncio.sleep(delay)
    now: float = await database.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    await trainer.kill()
    return job_id, now


async def queued_again(database: Pool) -> dict[str, float]:
    """Waits until every job is in the queue again; returns since when, by the database's clock."""
    async with asyncio.timeout(180):
        while len(rows := await database.fetch(QUEUED_AGAIN)) < TRAINERS:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return {row["job_id"]: row["seconds"] for row in rows}


if __name__ == "__main__":
    asyncio.run(main())
