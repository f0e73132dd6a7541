"""`rpc_edge`: unary rpcs a second through the edge, against a bare grpc.aio echo on the same machine.

Ours is `UserService.GetMe`: TLS, JWT check, rate limit and routing in Envoy; request log, metrics, deadline, errors,
token verification and validation in the service; one Postgres query. The baseline is a grpc.aio server that returns
its request over plaintext loopback, with no interceptor at all. Both are driven by the same client code with 16 calls
in flight; the two take turns, and the ratio is the median of the pairs.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from reeltune.auth.v1 import user_service_pb2

from benchmarks.report import Result, print_result
from meshkit.rpc.client import bearer
from reeltune_cli.client.connection import Client
from reeltune_cli.stack.background import background_mesh

CALLERS = 16
SECONDS = 4.0
PAIRS = 5
GOAL = 0.5
Call = Callable[[], Awaitable[object]]


async def main() -> None:
    with TemporaryDirectory() as folder:
        mesh = background_mesh(Path(folder), "--no-trainer")
        async with mesh as endpoint, Client(endpoint) as client:
            await client.session.sign_up("bench", "bench@example.com", secrets.token_urlsafe(24))
            metadata = bearer(await client.session.access_token())
            request = user_service_pb2.GetMeRequest()
            credentials = grpc.ssl_channel_credentials(endpoint.ca_file.read_bytes() if endpoint.ca_file else None)
            async with grpc.aio.secure_channel(endpoint.target, credentials) as edge, bare_echo() as echo:
                get_me = edge.unary_unary(
                    "/reeltune.auth.v1.UserService/GetMe",
                    request_serializer=user_service_pb2.GetMeRequest.SerializeToString,
                    response_deserializer=user_service_pb2.GetMeResponse.FromString,
                )
                pairs = await compare(lambda: get_me(request, metadata=metadata), lambda: echo(b"x" * 64))
    ratios = [ours.rate / bare.rate for ours, bare in pairs]
    print_result(
        Result(
            name="rpc_edge",
            ratio=statistics.median(ratios),
            goal=GOAL,
            higher_is_better=True,
            figures={
                "edge_rpcs_per_second": statistics.median(ours.rate for ours, _ in pairs),
                "bare_rpcs_per_second": statistics.median(bare.rate for _, bare in pairs),
                "edge_p50_milliseconds": statistics.median(ours.p50 for ours, _ in pairs) * 1e3,
                "edge_p99_milliseconds": statistics.median(ours.p99 for ours, _ in pairs) * 1e3,
                "bare_p99_milliseconds": statistics.median(bare.p99 for _, bare in pairs) * 1e3,
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            },
        )
    )


class Round:
    """What one stretch of load saw."""

    def __init__(self, seconds: float, latencies: list[float]) -> None:
        latencies.sort()
        self.rate = len(latencies) / seconds
        self.p50 = latencies[len(latencies) // 2]
        self.p99 = latencies[len(latencies) * 99 // 100]


async def compare(ours: Call, bare: Call) -> list[tuple[Round, Round]]:
    """Both in turn, after a warm-up of each."""
    await load(ours, 1.0)
    await load(bare, 1.0)
    return [(await load(ours, SECONDS), await load(bare, SECONDS)) for _ in range(PAIRS)]


async def load(call: Call, seconds: float) -> Round:
    """CALLERS callers, each with one call in flight, for so long."""
    latencies: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def caller() -> None:
        while (start := time.perf_counter()) < end:
            await call()
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return Round(time.perf_counter() - began, latencies)


@asynccontextmanager
async def bare_echo() -> AsyncIterator[Callable[[bytes], Awaitable[object]]]:
    """An echo server in a process of its own, and a call to it."""
    command = (sys.executable, "-m", "benchmarks.bare_echo_server")
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        port = int(await server.stdout.readline())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.unary_unary("/bare.Echo/Echo")
    finally:
        server.terminate()
        await server.wait()


if __name__ == "__main__":
    asyncio.run(main())
