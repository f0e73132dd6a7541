"""The connection pool of a service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection | PoolConnectionProxy

NOT_YET = (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError, asyncpg.TooManyConnectionsError)
"""What a server that is starting, restarting or full answers: worth another try."""

_T = TypeVar("_T")
_RETRY_SECONDS = 0.2
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# A commit that is reported and then lost would break every promise built on it.
_REQUIRED_SETTINGS = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_AFTER_COMMIT: dict[int, list[Callable[[], None]]] = {}
"""What is to be told of each open transaction, by its connection."""


class UnsafePostgres(Exception):
    """The server is configured so that it may lose what it has acknowledged."""


async def open_pool(
    dsn: str,
    schema: str,
    *,
    min_size: int = 1,
    max_size: int = 10,
    statement_timeout_seconds: float = 10,
    command_timeout_seconds: float = 15,
    idle_in_transaction_seconds: float = 30,
    startup_timeout_seconds: float = 30,
    application_name: str = "reeltune",
) -> Pool:
    """Returns a pool whose connections see `schema` first and read and write `jsonb` as Python values.

    Waits up to `startup_timeout_seconds` for a server that is still starting. The server stops a statement after
    `statement_timeout_seconds`; the client gives up on it a little later, should the server be gone. It ends a
    transaction that its client has said nothing in for `idle_in_transaction_seconds`: so long may one that is frozen
    keep locks.

    Raises:
        UnsafePostgres: the server runs with fsync, synchronous_commit or full_page_writes off.
        OSError, asyncpg.PostgresError: the server cannot be reached, or refuses the role.
    """
    check_schema_name(schema)

    async def connect() -> Pool:
        return await asyncpg.create_pool(
            dsn,
            min_size=min_size,
            max_size=max_size,
            init=_prepare_connection,
            reset=_reset_connection,
            command_timeout=command_timeout_seconds,
            timeout=5,
            server_settings={
                "search_path": schema,
                "statement_timeout": str(int(statement_timeout_seconds * 1000)),
                "idle_in_transaction_session_timeout": str(int(idle_in_transaction_seconds * 1000)),
                "application_name": f"{application_name}.{schema}",
            },
        )

    pool = await until_reachable(connect, startup_timeout_seconds)
    try:
        await _assert_durable(pool)
    except BaseException:
        await pool.close()
        raise
    return pool


@contextlib.asynccontextmanager
async def transaction(pool: Pool, *, acquire_timeout_seconds: float = 5) -> AsyncIterator[Connection]:
    """Gives a connection inside a transaction: committed when the block ends, rolled back when it raises."""
    async with pool.acquire(timeout=acquire_timeout_seconds) as connection:
        actions = _AFTER_COMMIT[id(connection)] = []
        try:
            async with connection.transaction():
                yield connection
        finally:
            del _AFTER_COMMIT[id(connection)]
    for act in actions:
        act()


def after_commit(connection: Connection, act: Callable[[], None]) -> None:
    """Has something told once the `transaction` of this connection is committed, and not at all if it is not.

    For logs and counters: what is told must not fail, and whatever it says the work is done.
    """
    _AFTER_COMMIT[id(connection)].append(act)


async def until_reachable(connect: Callable[[], Awaitable[_T]], seconds: float) -> _T:
    """Calls `connect` until it succeeds; after `seconds` the last error stands."""
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            return await connect()
        except NOT_YET as error:
            if time.monotonic() + _RETRY_SECONDS > give_up_at:
                raise
            structlog.get_logger().debug("postgres.not_yet", cause=repr(error))
        await asyncio.sleep(_RETRY_SECONDS)


def check_schema_name(schema: str) -> None:
    """Raises ValueError for a name that could not stand unquoted in SQL."""
    if not _SCHEMA.fullmatch(schema):
        raise ValueError(f"schema name {schema!r} is not a plain lower-case SQL name")


async def _prepare_connection(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    for name in ("jsonb", "json"):
        await connection.set_type_codec(
            name, encoder=lambda value: json.dumps(value, allow_nan=False), decoder=json.loads, schema="pg_catalog"
        )


async def _reset_connection(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Makes a connection fit for its next user.

    asyncpg's own way (RESET ALL, UNLISTEN …) is a second round trip for every query. None of it is needed: what
    listens or locks for a session keeps a connection of its own, and settings are changed by SET LOCAL alone.
    """
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")


async def _assert_durable(pool: Pool) -> None:
    for name, required in _REQUIRED_SETTINGS.items():
        value = await pool.fetchval("SELECT current_setting($1)", name)
        if value != required:
            raise UnsafePostgres(
                f"Postgres runs with {name} = {value}; set it to {required}: acknowledged work could be lost"
            )
