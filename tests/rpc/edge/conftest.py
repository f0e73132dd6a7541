"""A real Envoy with the rendered configuration before small real services and a real S3 server."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from meshkit.blob import BlobStore
from meshkit.embedded import EnvoyServer, S3Server
from meshkit.testing import assert_eventually
from meshkit.testing.plugin import S3_IDENTITY
from reeltune_cli.stack.certificates import EdgeCertificates, ensure_certificates
from reeltune_cli.stack.edge import DESCRIPTORS_NAME, EdgeSettings, Endpoint, render_edge
from tests.e2e.grpc_web import GrpcWebClient
from tests.rpc.edge.upstreams import Keys, Upstreams, running_upstreams


@dataclass(frozen=True, slots=True)
class Edge:
    """A running edge and its clients: none blocks the event loop, in which the services behind the edge run too."""

    server: EnvoyServer
    port: int
    certificates: EdgeCertificates
    folder: Path
    keys: Keys
    http: httpx.AsyncClient
    """Speaks HTTP/1.1 and verifies the certificate."""
    channel: grpc.aio.Channel

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def web(self) -> GrpcWebClient:
        return GrpcWebClient(self.url, self.certificates.ca, self.folder / DESCRIPTORS_NAME)

    def bearer(self, token: str | None = None) -> dict[str, str]:
        """Headers with a token; a good one by default."""
        return {"authorization": f"Bearer {self.keys.token() if token is None else token}"}


@pytest.fixture(scope="session")
async def upstreams() -> AsyncIterator[Upstreams]:
    async with running_upstreams() as running:
        yield running


@contextlib.asynccontextmanager
async def running_edge(
    folder: Path, endpoints: Mapping[str, tuple[Endpoint, ...]], keys: Keys, **settings: Any
) -> AsyncIterator[Edge]:
    """Runs Envoy and opens the clients."""
    certificates = ensure_certificates(folder / "certificates")
    config = render_edge(
        EdgeSettings(
            port=0,
            certificate=certificates.certificate,
            key=certificates.key,
            upstreams=endpoints,
            access_log=folder / "access.log",
            **settings,
        ),
        folder,
    )
    server = EnvoyServer(config, folder / "envoy")
    await server.start()
    try:
        port = (await server.listener_ports())["edge"]
        channel = grpc.aio.secure_channel(
            f"localhost:{port}", grpc.ssl_channel_credentials(certificates.ca.read_bytes())
        )
        trust = ssl.create_default_context(cafile=str(certificates.ca))
        async with httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{port}", verify=trust, timeout=60, trust_env=False
        ) as http:
            yield Edge(server, port, certificates, folder, keys, http, channel)
        await channel.close()
    finally:
        await server.stop()


def loopback(*ports: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint("127.0.0.1", port) for port in ports)


@pytest.fixture(scope="session")
async def edge(
    tmp_path_factory: pytest.TempPathFactory, upstreams: Upstreams, s3_server: S3Server
) -> AsyncIterator[Edge]:
    endpoints = {
        "auth": loopback(upstreams.auth.port),
        "catalog": loopback(upstreams.catalog.port),
        "scheduler": loopback(upstreams.scheduler.port),
        "trainer": loopback(*(trainer.port for trainer in upstreams.trainers)),
        "s3": loopback(s3_server.port),
    }
    folder = tmp_path_factory.mktemp("edge")
    async with running_edge(folder, endpoints, upstreams.keys, unary_timeout_seconds=3, jwks_max_age_seconds=2) as run:
        await wait_until_healthy(run)
        yield run


async def wait_until_healthy(edge: Edge) -> None:
    """Waits for all services and the key set."""

    async def is_healthy() -> bool:
        return (await edge.http.get("/healthz")).status_code == 200 and await has_keys(edge)

    await assert_eventually(is_healthy)


async def has_keys(edge: Edge) -> bool:
    """Tells whether the edge believes the current key's tokens."""
    return (await edge.http.get("/v1/users/me", headers=edge.bearer())).status_code == 200


@pytest.fixture
async def blobs(edge: Edge, s3_server: S3Server) -> AsyncIterator[BlobStore]:
    """A bucket whose presigned URLs lead through the edge."""
    store = BlobStore(
        s3_server.endpoint, S3_IDENTITY.access_key, S3_IDENTITY.secret_key, "edge-test", public_url=f"{edge.url}/s3"
    )
    await store.ensure_bucket()
    yield store
    await store.close()
