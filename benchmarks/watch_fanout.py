"""`watch_fanout`: from an event's time on record to its arrival at 1,000 watchers of one job, and at one.

One trainer (its calls are real, its training is not) reports metrics four times a second on its stream; the scheduler,
a process of the running mesh, records each report in a transaction of its own and tells whoever watches. Watchers are
streams of one client process, the scheduler and Postgres share the machine's two cores with it. The lag runs from the
`create_time` of the event, set by the database before the commit, to the moment at which the client has the message, by
the same machine's clock: writing, committing, notifying, reading, sending and receiving are all in it.

The ratio is the 99th percentile with 1,000 watchers to the goal of 500 ms; the baseline is the same with one watcher,
in the same run. Shown beside it: the same through the edge (TLS, JWT; ten connections, as it takes 100 streams on
each), what `GetTrainingJob` takes meanwhile, and the scheduler's memory for each watcher.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from reeltune.scheduler.v1 import attempt_service_pb2, job_event_pb2, training_service_pb2, worker_pb2
from reeltune.scheduler.v1.attempt_service_pb2_grpc import AttemptServiceStub
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub

from benchmarks.load import quantile
from benchmarks.mesh_material import BenchMesh, bench_mesh
from benchmarks.report import Result, print_result
from meshkit.rpc.client import bearer

WATCHERS = 1000
EVENTS_PER_SECOND = 4.0
SECONDS = 20.0
GOAL_SECONDS = 0.5
PAUSE_BETWEEN_GETS_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Phase:
    """What one group of watchers saw."""

    lags: list[float]
    """Seconds, ascending."""
    get_seconds: list[float]
    """What GetTrainingJob took meanwhile, ascending."""
    resident_bytes: int
    """Of the scheduler, while all watched."""
    cpu_seconds: float
    """That the scheduler used meanwhile."""
    begin_seconds: float
    """Until the last of them had its first message, the start of the client included."""
    not_whole: int
    """Watchers that missed or repeated an event, or broke off."""


async def main() -> None:
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        mesh = await stack.enter_async_context(bench_mesh(work, "--no-trainer"))
        job_id, trainer = await start_job(mesh)
        await stack.enter_async_context(trainer)
        await watched(mesh, job_id, watchers=1, seconds=2)
        phases = {
            "one": await watched(mesh, job_id, watchers=1),
            "thousand": await watched(mesh, job_id, watchers=WATCHERS),
            "thousand_through_edge": await watched(mesh, job_id, watchers=WATCHERS, through_edge=True),
        }
    figures: dict[str, float] = {"events_per_second": EVENTS_PER_SECOND}
    for name, phase in phases.items():
        figures |= {
            f"{name}_messages": len(phase.lags),
            f"{name}_p50_milliseconds": quantile(phase.lags, 0.5) * 1e3,
            f"{name}_p99_milliseconds": quantile(phase.lags, 0.99) * 1e3,
            f"{name}_worst_milliseconds": phase.lags[-1] * 1e3,
            f"{name}_get_p99_milliseconds": quantile(phase.get_seconds, 0.99) * 1e3,
            f"{name}_seconds_until_all_watch": phase.begin_seconds,
            f"{name}_scheduler_cpu_share": phase.cpu_seconds / SECONDS,
            f"{name}_scheduler_resident_mib": phase.resident_bytes / 2**20,
            f"{name}_watchers_not_whole": phase.not_whole,
        }
    grown = phases["thousand"].resident_bytes - phases["one"].resident_bytes
    figures["scheduler_kib_per_watcher"] = grown / (WATCHERS - 1) / 1024
    ratio = quantile(phases["thousand"].lags, 0.99) / GOAL_SECONDS
    print_result(Result("watch_fanout", ratio, 1.0, higher_is_better=False, figures=figures))


async def start_job(mesh: BenchMesh) -> tuple[str, Any]:
    """Submits a job and claims it as a trainer would; returns it, and what reports on it while it is open."""
    request = training_service_pb2.CreateTrainingJobRequest(model_id=mesh.model_id, dataset_id=mesh.dataset_id)
    job = (await mesh.client.training.CreateTrainingJob(request)).job
    return job.id, reporting(mesh, job.id)


@asynccontextmanager
async def reporting(mesh: BenchMesh, job_id: str) -> AsyncIterator[None]:
    """A trainer that reports metrics at an even pace until the block ends."""
    join_secret = json.loads((mesh.home / "data" / "secrets.json").read_text())["join_secret"]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.ports['scheduler']}") as channel:
        stub = AttemptServiceStub(channel)
        device = worker_pb2.Device(device_class=worker_pb2.DEVICE_CLASS_CPU, name="bench", can_train_4bit=True)
        worker = await stub.RegisterWorker(
            attempt_service_pb2.RegisterWorkerRequest(
                join_secret=join_secret, name="bench", device=device, version="bench"
            )
        )
        claim = (await stub.ClaimJob(attempt_service_pb2.ClaimJobRequest(), metadata=bearer(worker.worker_token))).claim
        assert claim.job.id == job_id, "another job was claimed"
        stream = stub.Attach(metadata=bearer(claim.grant))
        replies = asyncio.create_task(read_all(stream))
        reports = asyncio.create_task(report(stream))
        try:
            yield
            assert not reports.done(), "the trainer's stream broke"
        finally:
            for task in (reports, replies):
                task.cancel()
            await asyncio.gather(reports, replies, return_exceptions=True)


async def report(stream: Any) -> None:
    """Reports one point after the other."""
    await stream.write(
        attempt_service_pb2.AttachRequest(report=1, started=attempt_service_pb2.Started(total_steps=1_000_000))
    )
    number, due = 1, time.monotonic()
    while True:
        number, due = number + 1, due + 1 / EVENTS_PER_SECOND
        await asyncio.sleep(max(due - time.monotonic(), 0))
        values = {"loss": 1 / number, "learning_rate": 1e-4, "grad_norm": 1.0, "step_seconds": 0.25}
        point = job_event_pb2.MetricPoint(step=number, values=values)
        await stream.write(attempt_service_pb2.AttachRequest(report=number, metrics=point))


async def read_all(stream: Any) -> None:
    """Reads the answers to a trainer, so that none holds the stream up."""
    async for _ in stream:
        pass


async def watched(
    mesh: BenchMesh, job_id: str, *, watchers: int, seconds: float = SECONDS, through_edge: bool = False
) -> Phase:
    """Lets so many watch for so long, each from now on."""
    endpoint = mesh.client.endpoint
    token = await mesh.client.session.access_token()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.ports['scheduler']}") as channel:
        stub = TrainingServiceStub(channel)
        order = {
            "target": endpoint.target if through_edge else f"127.0.0.1:{mesh.ports['scheduler']}",
            "ca": str(endpoint.ca_file) if through_edge else "",
            "token": token,
            "job_id": job_id,
            "after": (await get(stub, job_id, token)).job.sequence,
            "watchers": watchers,
            "connections": 10 if through_edge else 1,
        }
        began = time.perf_counter()
        command = (sys.executable, "-m", "benchmarks.watch_client", json.dumps(order))
        client = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26
        )
        assert client.stdout is not None
        assert client.stdin is not None
        assert (await client.stdout.readline()).strip() == b"ready", "not all watches began"
        begin = time.perf_counter() - began
        pid = scheduler_pid(mesh)
        cpu = -cpu_seconds(pid)
        got = await get_again_and_again(stub, job_id, token, seconds)
        cpu, resident = cpu + cpu_seconds(pid), resident_bytes(pid)
        client.stdin.write(b"enough\n")
        found = json.loads(await client.stdout.readline())
        await client.wait()
    return Phase(found["lags"], got, resident, cpu, begin, found["not_whole"] + found["broken"])


async def get(stub: Any, job_id: str, token: str) -> Any:
    """One unary call."""
    return await stub.GetTrainingJob(training_service_pb2.GetTrainingJobRequest(job_id=job_id), metadata=bearer(token))


async def get_again_and_again(stub: Any, job_id: str, token: str, seconds: float) -> list[float]:
    """What unary calls take, ascending, in seconds."""
    took, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await get(stub, job_id, token)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE_BETWEEN_GETS_SECONDS)
    return sorted(took)


def scheduler_pid(mesh: BenchMesh) -> int:
    """The scheduler's process, as it told when it was ready."""
    lines = (mesh.home / "data" / "logs" / "scheduler.log").read_text().splitlines()
    return next(int(json.loads(line)["pid"]) for line in reversed(lines) if '"service.ready"' in line)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


if __name__ == "__main__":
    asyncio.run(main())
