"""`rpc_edge`: unary rpcs a second through the edge, against a bare grpc.aio echo on the same machine.

The ratio is that of one and the same echo server, without interceptors: reached through Envoy with our configuration
(TLS, JWT check, rate limits, routing, access log) and reached directly over plaintext loopback. What a whole service
costs beside the edge is shown too: `UserService.GetMe` of the running mesh, with its interceptors and a Postgres query.
All are driven by the same client code with 16 calls in flight, in turn; each figure is the median of the rounds.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from reeltune.auth.v1 import auth_service_pb2, session_pb2, user_service_pb2

from benchmarks.load import Call, load_figures, put_load
from benchmarks.report import Result, print_result
from meshkit.auth.tokens import TokenSigner, generate_private_key, public_jwk
from meshkit.embedded import EnvoyServer
from meshkit.rpc.client import bearer
from reeltune_cli.client.connection import Client
from reeltune_cli.stack.background import background_mesh
from reeltune_cli.stack.certificates import ensure_certificates
from reeltune_cli.stack.edge import EdgeSettings, Endpoint, render_edge

CALLERS = 16
SECONDS = 4.0
ROUNDS = 5
GOAL = 0.5
RPC = "/reeltune.auth.v1.UserService/GetMe"


async def main() -> None:
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        private_key = generate_private_key()
        echo_port = await stack.enter_async_context(echo_server(private_key))
        calls = {
            "bare": await stack.enter_async_context(direct_call(echo_port)),
            "edge": await stack.enter_async_context(call_through_edge(work / "edge", echo_port, private_key)),
            "get_me": await stack.enter_async_context(get_me_call(work / "home")),
        }
        for call in calls.values():
            await put_load([call] * CALLERS, 1.0)
        rounds = [
            {name: await put_load([call] * CALLERS, SECONDS) for name, call in calls.items()} for _ in range(ROUNDS)
        ]
    ratios = [each["edge"].rate / each["bare"].rate for each in rounds]
    figures: dict[str, float] = {}
    for name in calls:
        figures |= load_figures(name, "rpcs", [each[name] for each in rounds])
    whole = statistics.median(each["get_me"].rate / each["bare"].rate for each in rounds)
    spread = {"lowest_ratio": min(ratios), "highest_ratio": max(ratios), "get_me_to_bare_ratio": whole}
    print_result(Result("rpc_edge", statistics.median(ratios), GOAL, higher_is_better=True, figures=figures | spread))


@asynccontextmanager
async def echo_server(private_key: bytes) -> AsyncIterator[int]:
    """The bare server in a process of its own, and its port."""
    jwks = auth_service_pb2.GetJwksResponse(keys=[session_pb2.JsonWebKey(**public_jwk(private_key, "bench"))])
    command = (sys.executable, "-m", "benchmarks.bare_echo_server", jwks.SerializeToString().hex())
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield int(await server.stdout.readline())
    finally:
        server.terminate()
        await server.wait()


@asynccontextmanager
async def direct_call(port: int) -> AsyncIterator[Call]:
    """The echo over plaintext loopback."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo = channel.unary_unary(RPC)
        yield lambda: echo(b"x" * 64)


@asynccontextmanager
async def call_through_edge(folder: Path, port: int, private_key: bytes) -> AsyncIterator[Call]:
    """The echo behind an edge of our configuration, with a token that the edge verifies."""
    certificates = ensure_certificates(folder / "certificates")
    settings = EdgeSettings(
        port=0,
        certificate=certificates.certificate,
        key=certificates.key,
        upstreams={"auth": (Endpoint("127.0.0.1", port),)},
        access_log=folder / "access.log",
    )
    edge = EnvoyServer(render_edge(settings, folder / "config"), folder)
    await edge.start()
    try:
        public = (await edge.listener_ports())["edge"]
        signer = TokenSigner(private_key, kid="bench", issuer="reeltune-auth", audience="reeltune", typ="at+jwt")
        metadata = bearer(signer.sign("usr_bench", timedelta(minutes=10)))
        credentials = grpc.ssl_channel_credentials(certificates.ca.read_bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{public}", credentials) as channel:
            echo = channel.unary_unary(RPC)
            await _until_admitted(lambda: echo(b"", metadata=metadata))
            yield lambda: echo(b"x" * 64, metadata=metadata)
    finally:
        await edge.stop()


async def _until_admitted(call: Call) -> None:
    """Waits until the edge has fetched the keys and found the server healthy."""
    async with asyncio.timeout(30):
        while True:
            try:
                await call()
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def get_me_call(home: Path) -> AsyncIterator[Call]:
    """`GetMe` of a whole mesh."""
    async with background_mesh(home, "--no-trainer") as endpoint, Client(endpoint) as client:
        await client.session.sign_up("bench", "bench@example.com", secrets.token_urlsafe(24))
        metadata = bearer(await client.session.access_token())
        assert endpoint.ca_file is not None
        credentials = grpc.ssl_channel_credentials(endpoint.ca_file.read_bytes())
        async with grpc.aio.secure_channel(endpoint.target, credentials) as channel:
            get_me = channel.unary_unary(
                RPC,
                request_serializer=user_service_pb2.GetMeRequest.SerializeToString,
                response_deserializer=user_service_pb2.GetMeResponse.FromString,
            )
            yield lambda: get_me(user_service_pb2.GetMeRequest(), metadata=metadata)


if __name__ == "__main__":
    asyncio.run(main())
