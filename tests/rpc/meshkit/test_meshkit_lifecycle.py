"""A service as a real process: ready, stopped, broken, and killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit.rpc.client import bearer, open_channel
from tests.rpc.meshkit.echo_service import SERVICE, Echo

TIMEOUT = 30


class Process:
    """A running echo service and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[dict[str, Any]] = []

    async def event(self, name: str) -> dict[str, Any]:
        """Reads the log up to an event."""
        async with asyncio.timeout(TIMEOUT):
            while (event := await self._next()) is not None:
                if event["event"] == name:
                    return event
        raise AssertionError(f"the process ended without {name}: {self.events}")

    async def exit_code(self) -> int:
        async with asyncio.timeout(TIMEOUT):
            while await self._next() is not None:
                continue
            return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def closed(self) -> list[str]:
        return [event["what"] for event in self.events if event["event"] == "closed"]

    async def _next(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            return None
        event: dict[str, Any] = json.loads(line)
        self.events.append(event)
        return event


Start = Callable[..., Awaitable[Process]]


@pytest_asyncio.fixture(loop_scope="session")
async def start(echo: Echo) -> AsyncIterator[Start]:
    generated = Path(str(echo.pb.__file__)).parents[2]
    async with AsyncExitStack() as stack:

        async def spawn(behaviour: str, **environment: str) -> Process:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.rpc.meshkit.echo_process",
                str(generated),
                behaviour,
                stdout=asyncio.subprocess.PIPE,
                cwd=Path(__file__).parents[3],
                env={**os.environ, **environment},
            )
            stack.push_async_callback(_end, process)
            return Process(process)

        yield spawn


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_a_ready_service_serves_and_stops_in_order(start: Start) -> None:
    process = await start("serves")
    ready = await process.event("service.ready")
    async with open_channel(ready["address"]) as channel:
        for name in ("", SERVICE):
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    async with httpx.AsyncClient(trust_env=False) as client:
        metrics = await client.get(f"http://127.0.0.1:{ready['metrics_port']}/metrics")
    assert "rpc_server_handled_total" in metrics.text
    process.send(signal.SIGTERM)
    assert await process.exit_code() == 0
    assert process.closed == ["puller", "store", "pool"]
    assert process.events[-1]["event"] == "service.stopped"


async def test_a_running_call_ends_well_and_no_new_one_begins(start: Start, echo: Echo) -> None:
    process = await start("serves")
    ready = await process.event("service.ready")
    async with open_channel(ready["address"]) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        proceed = asyncio.Event()

        async def requests() -> AsyncIterator[Any]:
            yield echo.pb.UpRequest(word=echo.word("before"))
            await proceed.wait()
            yield echo.pb.UpRequest(word=echo.word("after"))

        upload = echo.stub(channel).Up(requests(), metadata=bearer("usr_1"))
        await upload.wait_for_connection()
        process.send(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await process.event("closed")
        with pytest.raises(grpc.aio.AioRpcError):
            async with open_channel(ready["address"]) as late:
                await echo.stub(late).Open(echo.pb.OpenRequest(), timeout=2)
        proceed.set()
        assert (await upload).count == 2
    assert await process.exit_code() == 0


async def test_a_call_that_does_not_end_is_cut_after_the_grace(start: Start, echo: Echo) -> None:
    process = await start("serves", SHUTDOWN_GRACE_SECONDS="0.3")
    ready = await process.event("service.ready")
    async with open_channel(ready["address"]) as channel:
        request = echo.pb.DownRequest(count=5, trouble="slow")
        call = echo.stub(channel).Down(request, metadata=bearer("usr_1"))
        assert [(await call.read()).number for _ in range(2)] == [0, 1]
        process.send(signal.SIGINT)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call.read()
    assert await process.exit_code() == 0


async def test_a_service_that_is_frozen_is_given_up_by_its_callers(start: Start, echo: Echo) -> None:
    process = await start("serves")
    ready = await process.event("service.ready")
    async with open_channel(ready["address"], keepalive_seconds=1, keepalive_timeout_seconds=1) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        # What comes is measured by pings, too: one of them may be under way in the very moment.
        for _ in range(20):
            await echo.stub(channel).Open(echo.pb.OpenRequest())
        process.send(signal.SIGSTOP)
        try:
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                await asyncio.wait_for(watch.read(), TIMEOUT)
        finally:
            process.send(signal.SIGCONT)
        assert lost.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_dead_background_task_stops_the_service(start: Start) -> None:
    process = await start("relay dies")
    died = await process.event("background.died")
    assert died["task"] == "relay"
    assert "the relay broke" in died["exception"]
    assert await process.exit_code() == 1
    assert process.closed == ["puller", "store", "pool"]


async def test_a_failed_start_closes_what_was_open_and_tells_no_secret(start: Start) -> None:
    process = await start("fails to start")
    assert await process.exit_code() == 1
    assert process.closed == ["store", "pool"]
    assert "service.failed" in [event["event"] for event in process.events]
    assert "canary-secret" not in json.dumps(process.events)


async def test_a_start_that_takes_too_long_is_given_up(start: Start) -> None:
    process = await start("waits for ever", STARTUP_TIMEOUT_SECONDS="0.3")
    assert await process.exit_code() == 1
    (failed,) = [event for event in process.events if event["event"] == "service.failed"]
    assert "was not ready within" in failed["exception"]


async def test_sigterm_during_the_start_stops_it(start: Start) -> None:
    process = await start("waits for ever")
    await process.event("waiting")
    process.send(signal.SIGTERM)
    assert await process.exit_code() == 0
    assert process.closed == ["store", "pool"]


async def test_the_second_signal_ends_a_stop_that_hangs(start: Start) -> None:
    process = await start("hangs at close")
    await process.event("service.ready")
    process.send(signal.SIGTERM)
    await process.event("service.stopping")
    await process.event("closed")
    process.send(signal.SIGTERM)
    assert await process.exit_code() == 128 + signal.SIGTERM


async def test_a_stop_that_hangs_is_ended_by_the_hard_timer(start: Start) -> None:
    process = await start("hangs at close", SHUTDOWN_GRACE_SECONDS="0")
    await process.event("service.ready")
    process.send(signal.SIGTERM)
    assert await process.exit_code() == 1
    assert process.events[-1]["event"] == "service.stop_timed_out"


async def test_a_taken_port_fails_with_its_number(start: Start) -> None:
    first = await start("serves")
    port = (await first.event("service.ready"))["address"].rpartition(":")[2]
    second = await start("serves", PORT=port)
    assert await second.exit_code() == 1
    (failed,) = [event for event in second.events if event["event"] == "service.failed"]
    assert port in failed["exception"]
