"""Pool, migrations and queries against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import grpc
import pytest

from meshkit.embedded import PostgresServer
from meshkit.postgres import MigrationError, Queries, UnsafePostgres, listen, migrate, open_pool, transaction
from meshkit.postgres.failures import POSTGRES_FAILURES
from meshkit.postgres.queries import QueryFileError
from meshkit.rpc.failure import failure_for
from meshkit.testing import Database, DatabaseSpec, assert_eventually
from meshkit.testing.databases import DatabaseFactory


class SqlPackage:
    """A package with SQL files, importable as `name`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder / name / "sql"
        self.folder.mkdir(parents=True)
        (folder / name / "__init__.py").touch()

    def write(self, file_name: str, sql: str) -> None:
        (self.folder / file_name).write_text(textwrap.dedent(sql))

    @property
    def path(self) -> str:
        return f"{self.name}.sql"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[SqlPackage]:
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    name = "sqlpkg_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    yield SqlPackage(tmp_path, name)
    sys.modules.pop(name, None)


async def test_migrations_apply_once_and_in_order(database: Database, package: SqlPackage) -> None:
    package.write("0002_add_size.sql", "ALTER TABLE clips ADD COLUMN size bigint; CREATE INDEX ON clips (size);")
    package.write("0001_create_clips.sql", "CREATE TABLE clips (id text PRIMARY KEY);")
    assert await migrate(database.dsn, database.schema, package.path) == ["0001_create_clips", "0002_add_size"]
    assert await migrate(database.dsn, database.schema, package.path) == []
    package.write("0003_drop_clips.sql", "DROP TABLE clips;")
    assert await migrate(database.dsn, database.schema, package.path) == ["0003_drop_clips"]


async def test_replicas_that_start_together_migrate_once(database: Database, package: SqlPackage) -> None:
    package.write("0001_create_clips.sql", "CREATE TABLE clips (id text PRIMARY KEY); SELECT pg_sleep(0.2);")
    results = await asyncio.gather(*(migrate(database.dsn, database.schema, package.path) for _ in range(4)))
    assert sorted(map(len, results)) == [0, 0, 0, 1]


async def test_an_edited_migration_is_refused(database: Database, package: SqlPackage) -> None:
    package.write("0001_create_clips.sql", "CREATE TABLE clips (id text);")
    await migrate(database.dsn, database.schema, package.path)
    package.write("0001_create_clips.sql", "CREATE TABLE clips (id text, size bigint);")
    with pytest.raises(MigrationError, match="0001_create_clips was edited"):
        await migrate(database.dsn, database.schema, package.path)


async def test_a_failing_migration_leaves_nothing_and_names_itself(database: Database, package: SqlPackage) -> None:
    package.write("0001_create_clips.sql", "CREATE TABLE clips (id text); SELECT 1/0;")
    with pytest.raises(MigrationError, match="0001_create_clips failed"):
        await migrate(database.dsn, database.schema, package.path)
    pool = await open_pool(database.dsn, database.schema)
    try:
        assert await pool.fetchval("SELECT to_regclass('clips')") is None
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("file_name", "message"),
    [("0002_create_clips.sql", "expected migration 0001"), ("clips.sql", "is not named")],
)
async def test_misnamed_files_are_refused(
    database: Database, package: SqlPackage, file_name: str, message: str
) -> None:
    package.write(file_name, "SELECT 1;")
    with pytest.raises(MigrationError, match=message):
        await migrate(database.dsn, database.schema, package.path)


async def test_a_database_of_a_newer_version_is_refused(database: Database, package: SqlPackage) -> None:
    package.write("0001_create_clips.sql", "CREATE TABLE clips (id text);")
    package.write("0002_add_size.sql", "ALTER TABLE clips ADD COLUMN size bigint;")
    await migrate(database.dsn, database.schema, package.path)
    (package.folder / "0002_add_size.sql").unlink()
    with pytest.raises(MigrationError, match="0002_add_size"):
        await migrate(database.dsn, database.schema, package.path)


async def test_a_pool_sees_its_schema_and_jsonb_as_values(database: Database) -> None:
    pool = await open_pool(database.dsn, database.schema)
    try:
        assert await pool.fetchval("SELECT current_schema()") == "app"
        value = {"name": "ü", "list": [1, 2.5, None, True]}
        assert await pool.fetchval("SELECT $1::jsonb", value) == value
        with pytest.raises(asyncpg.DataError):
            await pool.fetchval("SELECT $1::jsonb", float("nan"))
    finally:
        await pool.close()


async def test_a_transaction_rolls_back_what_raises(database: Database) -> None:
    pool = await open_pool(database.dsn, database.schema)
    try:
        await pool.execute("CREATE TABLE clips (id text)")

        async def insert_and_fail() -> None:
            async with transaction(pool) as connection:
                await connection.execute("INSERT INTO clips VALUES ('a')")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await insert_and_fail()
        async with transaction(pool) as connection:
            await connection.execute("INSERT INTO clips VALUES ('b')")
        assert await pool.fetchval("SELECT array_agg(id) FROM clips") == ["b"]
    finally:
        await pool.close()


async def test_a_slow_statement_is_stopped_by_the_server(database: Database) -> None:
    pool = await open_pool(database.dsn, database.schema, statement_timeout_seconds=0.1)
    try:
        with pytest.raises(asyncpg.QueryCanceledError) as raised:
            await pool.execute("SELECT pg_sleep(5)")
        failure = failure_for(raised.value, POSTGRES_FAILURES)
        assert failure is not None
        assert failure.reason == "POSTGRES_TIMEOUT"
    finally:
        await pool.close()


async def test_text_that_postgres_cannot_keep_is_the_callers_fault(database: Database) -> None:
    pool = await open_pool(database.dsn, database.schema)
    try:
        with pytest.raises(asyncpg.CharacterNotInRepertoireError) as raised:
            await pool.fetchval("SELECT $1::text", "a\0b")
        failure = failure_for(raised.value, POSTGRES_FAILURES)
        assert failure is not None
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TEXT_INVALID")
    finally:
        await pool.close()


async def test_a_role_sees_no_other_schema(database_factory: DatabaseFactory, database: Database) -> None:
    connection = await asyncpg.connect(database.superuser_dsn)
    await connection.execute("CREATE SCHEMA private CREATE TABLE private.secrets (id text)")
    await connection.close()
    pool = await open_pool(database.dsn, database.schema)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.fetch("SELECT * FROM private.secrets")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute("CREATE TABLE public.mine (id text)")
    finally:
        await pool.close()


async def test_databases_of_two_tests_share_nothing(database_factory: DatabaseFactory) -> None:
    spec = DatabaseSpec("app")
    async with database_factory.fresh(spec) as first, database_factory.fresh(spec) as second:
        for fresh in (first, second):
            connection = await asyncpg.connect(fresh.dsn)
            await connection.execute("CREATE TABLE app.clips (id text)")
            await connection.execute("INSERT INTO app.clips VALUES ('one')")
            assert await connection.fetchval("SELECT count(*) FROM app.clips") == 1
            await connection.close()


async def test_an_unsafe_server_is_refused(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "unsafe", settings={"fsync": "off"})
    await server.start()
    try:
        dsn = await server.create_role_and_schema("app", "password_1", "app")
        with pytest.raises(UnsafePostgres, match="fsync = off"):
            await open_pool(dsn, "app")
    finally:
        await server.stop()


async def test_a_pool_outlives_a_restart_and_a_crash(own_postgres: PostgresServer) -> None:
    dsn = await own_postgres.create_role_and_schema("app", "password_1", "app")
    pool = await open_pool(dsn, "app", max_size=2)
    try:
        await pool.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
        for number, end in enumerate((own_postgres.stop, own_postgres.kill)):
            await pool.execute("INSERT INTO kept VALUES ($1)", number)
            await end()
            with pytest.raises(Exception) as raised:  # noqa: PT011  the point is what the error table makes of it
                await pool.fetchval("SELECT 1", timeout=5)
            failure = failure_for(raised.value, POSTGRES_FAILURES)
            assert failure is not None, repr(raised.value)
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "POSTGRES_UNAVAILABLE")
            assert failure.retry_after is not None
            await own_postgres.start()

            async def count() -> int:
                try:
                    return int(await pool.fetchval("SELECT count(*) FROM kept"))
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    return 0

            await assert_eventually(lambda wanted=number + 1: _is(count(), wanted))
    finally:
        await pool.close()


async def _is(answer: object, wanted: int) -> bool:
    return bool(await answer == wanted)  # type: ignore[misc]


async def test_open_pool_waits_for_a_server_that_starts(own_postgres: PostgresServer) -> None:
    dsn = await own_postgres.create_role_and_schema("app", "password_1", "app")
    await own_postgres.stop()
    opening = asyncio.create_task(open_pool(dsn, "app", startup_timeout_seconds=20))
    await own_postgres.start()
    pool = await opening
    assert await pool.fetchval("SELECT 1") == 1
    await pool.close()


async def test_a_wrong_password_fails_at_once(own_postgres: PostgresServer) -> None:
    await own_postgres.create_role_and_schema("app", "password_1", "app")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await open_pool(own_postgres.role_dsn("app", "wrong"), "app")


def test_queries_are_attributes_with_their_name_in_the_text(package: SqlPackage) -> None:
    package.write(
        "clips.sql",
        """
        -- All about clips.

        -- name: find_clip
        -- Finds a clip of its owner.
        SELECT * FROM clips
        -- only the caller's
        WHERE id = $1 AND owner = $2;

        -- name: count_clips
        -- Counts.
        SELECT count(*) FROM clips
        """,
    )
    queries = Queries.load(package.path)
    assert queries.find_clip == "/* find_clip */ SELECT * FROM clips\nWHERE id = $1 AND owner = $2"
    assert sorted(queries) == ["count_clips", "find_clip"]
    with pytest.raises(AttributeError, match="no query 'find_user'; there are: count_clips, find_clip"):
        _ = queries.find_user


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- name: find_clip\nSELECT 1", "needs a line"),
        ("-- name: find_clip\n-- Finds.\n", "has no SQL"),
        ("-- name: FindClip\n-- Finds.\nSELECT 1", "not snake_case"),
        ("-- name: a\n-- One.\nSELECT 1;\n-- name: a\n-- Two.\nSELECT 2;", "exists twice"),
        ("SELECT 1;\n-- name: a\n-- One.\nSELECT 1;", "before the first"),
    ],
)
def test_careless_query_files_are_refused(package: SqlPackage, text: str, message: str) -> None:
    package.write("clips.sql", text)
    with pytest.raises(QueryFileError, match=message):
        Queries.load(package.path)


async def test_whoever_listens_is_told_to_look_again_and_hears_on_after_a_broken_connection(database: Database) -> None:
    heard: list[str] = []
    looks: list[None] = []
    listening = asyncio.create_task(
        listen(database.dsn, {"news": heard.append, "more": heard.append}, lambda: looks.append(None), name="test")
    )
    connection = await asyncpg.connect(database.dsn)
    try:
        await assert_eventually(lambda: len(looks) == 1)
        await connection.execute("SELECT pg_notify('news', 'a'), pg_notify('more', 'b'), pg_notify('other', 'c')")
        await assert_eventually(lambda: heard == ["a", "b"])
        listener = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT 1' AND usename = current_user"
        pid = await connection.fetchval(listener)
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        await assert_eventually(lambda: len(looks) == 2)
        await connection.execute("SELECT pg_notify('news', 'd')")
        await assert_eventually(lambda: heard == ["a", "b", "d"])
    finally:
        await connection.close()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
