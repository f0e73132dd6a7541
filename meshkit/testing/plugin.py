"""The pytest fixtures. A server whose binary is not installed skips the tests that need it, by name."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Protocol

import pytest
import pytest_asyncio
import structlog

from meshkit.auth.revocations import NO_REVOCATIONS, Revocations
from meshkit.blob import BlobStore
from meshkit.embedded import NatsServer, NatsUser, PostgresServer, S3Identity, S3Server
from meshkit.embedded.process import StartableServer
from meshkit.jetstream import JetStream, connect
from meshkit.rpc.client import open_channel
from meshkit.rpc.failure import ErrorTable
from meshkit.rpc.interceptors.authentication import Verifier
from meshkit.rpc.peers import NO_PEERS, Peers
from meshkit.rpc.registration import ServicerRegistration
from meshkit.rpc.server import build_server
from meshkit.settings import ServiceSettings
from meshkit.testing.databases import Database, DatabaseFactory, DatabaseSpec
from meshkit.testing.served import Served, TokenMint

NATS_USER = NatsUser("test", "test-password", publish=(">",), subscribe=(">",))
S3_IDENTITY = S3Identity("test-access-key", "test-secret-key-0123456789")
_BUCKET = "test"


@contextlib.asynccontextmanager
async def _running(server: StartableServer) -> AsyncIterator[None]:
    try:
        await server.start()
    except FileNotFoundError as error:
        pytest.skip(f"NOT TESTED: {error}")
    try:
        yield
    finally:
        await server.stop()


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    """Takes back what a test (or the service it ran) configured: its captured stdout is closed when it ends."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    """One PostgreSQL for the session."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    async with _running(server):
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """One NATS for the session, with the user `NATS_USER`, who may do everything."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), [NATS_USER])
    async with _running(server):
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def s3_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """One S3 server for the session, with the identity `S3_IDENTITY`."""
    server = S3Server(tmp_path_factory.mktemp("s3"), [S3_IDENTITY])
    async with _running(server):
        yield server


@pytest.fixture(scope="session")
def database_factory(postgres_server: PostgresServer) -> DatabaseFactory:
    """Makes databases from templates; use `database` unless a test needs several."""
    return DatabaseFactory(postgres_server)


@pytest.fixture(scope="session")
def database_spec() -> DatabaseSpec:
    """What `database` holds: overridden in the `conftest.py` of a service's tests."""
    return DatabaseSpec("app")


@pytest_asyncio.fixture(loop_scope="session")
async def database(database_factory: DatabaseFactory, database_spec: DatabaseSpec) -> AsyncIterator[Database]:
    """A fresh database with the migrations of `database_spec` applied."""
    async with database_factory.fresh(database_spec) as fresh:
        yield fresh


@pytest_asyncio.fixture(loop_scope="session")
async def jetstream(nats_server: NatsServer) -> AsyncIterator[JetStream]:
    """A connection to `nats_server`; streams of earlier tests are gone."""
    connection = connect(nats_server.url, user=NATS_USER.name, password=NATS_USER.password, name="test")
    try:
        await connection.wait_connected(10)
        for stream in await connection.context().streams_info():
            await connection.context().delete_stream(str(stream.config.name))
        yield connection
    finally:
        await connection.close()


@pytest_asyncio.fixture(loop_scope="session")
async def blob_store(s3_server: S3Server) -> AsyncIterator[BlobStore]:
    """An empty bucket."""
    store = BlobStore(s3_server.endpoint, S3_IDENTITY.access_key, S3_IDENTITY.secret_key, _BUCKET)
    try:
        await store.ensure_bucket()
        yield store
        for item in await store.list():
            await store.remove(item.key)
    finally:
        await store.close()


@pytest.fixture(scope="session")
def token_mint() -> TokenMint:
    """Signs tokens that a server started by `serve` accepts."""
    return TokenMint()


class Serve(Protocol):
    """Starts a server with all interceptors; see `serve`."""

    def __call__(
        self,
        registrations: Sequence[ServicerRegistration],
        *,
        error_table: ErrorTable | None = None,
        verifier: Verifier | None = None,
        long_rpcs: frozenset[str] = frozenset(),
        revocations: Revocations = NO_REVOCATIONS,
        settings: ServiceSettings | None = None,
        peers: Peers = NO_PEERS,
    ) -> Awaitable[Served]: ...


@pytest_asyncio.fixture(loop_scope="session")
async def serve(token_mint: TokenMint) -> AsyncIterator[Serve]:
    """Serves servicers on a free port until the test ends: `served = await serve([ServicerRegistration(…)])`."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            registrations: Sequence[ServicerRegistration],
            *,
            error_table: ErrorTable | None = None,
            verifier: Verifier | None = None,
            long_rpcs: frozenset[str] = frozenset(),
            revocations: Revocations = NO_REVOCATIONS,
            settings: ServiceSettings | None = None,
            peers: Peers = NO_PEERS,
        ) -> Served:
            bound = build_server(
                settings or ServiceSettings(),
                registrations,
                error_table=error_table or {},
                verifier=verifier or token_mint.verifier,
                long_rpcs=long_rpcs,
                revocations=revocations,
                peers=peers,
            )
            await bound.server.start()
            stack.push_async_callback(bound.server.stop, None)
            channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{bound.port}"))
            return Served(channel=channel, bound=bound)

        yield start
