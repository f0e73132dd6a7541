"""`dispatch`: from the submission of a job to its claim by a warm, idle trainer, against 100 ms.

Both times are the database's: a job's `create_time`, and its event of becoming STARTING. In between lie the commit, the
outbox relay, JetStream, the trainer's claim and the scheduler's choice. One trainer, idle for a moment before each
job, which rehearses one step and is free again; jobs come at random moments. The ratio is that of the 99th percentile
to 0.1 s. Beside it, in turn with the jobs: a message published to a JetStream work queue on disk, and pulled.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from benchmarks.load import quantile
from benchmarks.mesh_material import bench_mesh
from benchmarks.rehearsals import rehearsal_trainer, submit_rehearsal
from benchmarks.report import Result, print_result
from meshkit.embedded import NatsServer, NatsUser
from meshkit.embedded.process import running
from meshkit.jetstream import Delivery, JetStream, connect, ensure_consumer, ensure_work_queue, publish, pull

JOBS = 250
WARM_UP = 10
GOAL_SECONDS = 0.1
SEED = 1
CLAIMED = """
SELECT extract(epoch FROM event.create_time - job.create_time)::float8
FROM scheduler.jobs AS job JOIN scheduler.job_events AS event ON event.job_id = job.id
WHERE job.id = $1 AND job.state = 'COMPLETED' AND event.body ->> 'to' = 'STARTING'
ORDER BY event.sequence LIMIT 1
"""


async def main() -> None:
    dice = random.Random(SEED)
    claims: list[float] = []
    round_trips: list[float] = []
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        mesh = await stack.enter_async_context(bench_mesh(work, "--no-trainer"))
        await stack.enter_async_context(running(rehearsal_trainer(mesh, work / "trainer", "bench")))
        queue = await stack.enter_async_context(bare_queue(work / "nats"))
        database = await asyncpg.connect(mesh.postgres.dsn())
        stack.push_async_callback(database.close)
        for number in range(WARM_UP + JOBS):
            job_id = await submit_rehearsal(mesh, steps=1, step_milliseconds=0)
            claimed = await completed_claim(database, job_id)
            round_trip = await queue.round_trip()
            if number >= WARM_UP:
                claims.append(claimed)
                round_trips.append(round_trip)
            # The trainer has asked for another job by then, found none, and waits; any phase of its clock will do.
            await asyncio.sleep(dice.uniform(0.2, 0.6))
    claims.sort()
    round_trips.sort()
    figures = {"jobs": float(len(claims))}
    for name, seconds in (("claimed", claims), ("bare_jetstream", round_trips)):
        figures |= {
            f"{name}_p50_milliseconds": quantile(seconds, 0.5) * 1e3,
            f"{name}_p99_milliseconds": quantile(seconds, 0.99) * 1e3,
            f"{name}_slowest_milliseconds": seconds[-1] * 1e3,
        }
    ratio = quantile(claims, 0.99) / GOAL_SECONDS
    print_result(Result("dispatch", ratio, 1.0, higher_is_better=False, figures=figures))


async def completed_claim(database: asyncpg.Connection[asyncpg.Record], job_id: str) -> float:
    """Waits until the job is done; returns the seconds from its submission to its claim."""
    async with asyncio.timeout(60):
        while (claimed := await database.fetchval(CLAIMED, job_id)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return float(claimed)


class BareQueue:
    """A work queue with one subscriber."""

    def __init__(self, jetstream: JetStream, deliveries: AsyncIterator[Delivery]) -> None:
        self._jetstream = jetstream
        self._deliveries = deliveries

    async def round_trip(self) -> float:
        """Seconds from publishing a message to having it."""
        pulled = asyncio.ensure_future(anext(self._deliveries))
        # The pull is open before the message comes, as an idle trainer's is.
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        await publish(self._jetstream, "bare", b"x" * 64, msg_id=secrets.token_hex(8))
        delivery = await pulled
        seconds = time.perf_counter() - began
        await delivery.ack()
        return seconds


@asynccontextmanager
async def bare_queue(folder: Path) -> AsyncIterator[BareQueue]:
    """A NATS server of its own, configured as the mesh's is."""
    user = NatsUser("bench", secrets.token_urlsafe(16), publish=(">",), subscribe=(">",))
    server = NatsServer(folder, (user,))
    async with running(server):
        jetstream = connect(server.url, user=user.name, password=user.password, name="bench")
        try:
            await jetstream.wait_connected(10)
            await ensure_work_queue(jetstream, "BARE", ["bare"])
            await ensure_consumer(jetstream, "BARE", "bench", "bare")
            async with aclosing(pull(jetstream, "BARE", "bench")) as deliveries:  # type: ignore[type-var]
                yield BareQueue(jetstream, deliveries)
        finally:
            await jetstream.close()


if __name__ == "__main__":
    asyncio.run(main())
