"""Numbered, forward-only migrations, one schema at a time."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import asyncpg
import structlog

from meshkit.postgres.pool import check_schema_name, until_reachable

_FILE_NAME = re.compile(r"(?P<number>\d{4})_[a-z][a-z0-9]*(_[a-z0-9]+)+\.sql")
_LOCK_TIMEOUT = "15s"
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(Exception):
    """The migrations on disk and those in the database do not fit, or one of them failed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


async def migrate(dsn: str, schema: str, package: str, *, startup_timeout_seconds: float = 30) -> list[str]:
    """Applies what is new in `package` (e.g. `auth_svc.sql.migrations`) to `schema`; returns the names applied.

    Each file `NNNN_verb_object.sql` runs in its own transaction, together with the row that records it. An advisory
    lock makes replicas that start together wait for each other; a lock timeout keeps a migration from queueing
    behind a long transaction and blocking everybody behind itself.

    Raises:
        MigrationError: a file that was applied has been edited or removed, numbers have a gap, or a file failed.
    """
    check_schema_name(schema)
    migrations = load_migrations(package)
    connection = await until_reachable(lambda: asyncpg.connect(dsn, timeout=5), startup_timeout_seconds)
    try:
        await _prepare(connection, schema)
        await connection.execute("SELECT pg_advisory_lock(hashtext('migrate:' || $1))", schema)
        await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        await connection.execute(_TABLE)
        return await _apply_new(connection, schema, migrations)
    finally:
        # Closing the session also releases the advisory lock.
        await connection.close()


def load_migrations(package: str) -> list[Migration]:
    """Returns the migrations of a package in order.

    Raises:
        MigrationError: a file's name is not `NNNN_verb_object.sql`, or the numbers do not run 1, 2, 3, …
    """
    migrations = sorted(
        (_migration(file) for file in package_folder(package).iterdir() if file.name.endswith(".sql")),
        key=lambda migration: migration.number,
    )
    for expected, migration in enumerate(migrations, start=1):
        if migration.number != expected:
            raise MigrationError(f"{package}: expected migration {expected:04d}, found {migration.name}")
    return migrations


def package_folder(package: str) -> Traversable:
    """Returns the folder of `pkg.sql.migrations`; only `pkg` itself has to be an importable package."""
    root, *rest = package.split(".")
    folder = resources.files(root).joinpath(*rest)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {'/'.join(rest)} in package {root}")
    return folder


async def _prepare(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> None:
    exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema)
    if not exists:
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    await connection.execute(f"SET search_path = {schema}")


async def _apply_new(
    connection: asyncpg.Connection[asyncpg.Record], schema: str, migrations: list[Migration]
) -> list[str]:
    applied = {
        row["number"]: row for row in await connection.fetch("SELECT number, name, sha256 FROM schema_migrations")
    }
    _check_applied(applied, migrations, schema)
    names = []
    for migration in migrations:
        if migration.number not in applied:
            await _apply(connection, migration)
            structlog.get_logger().info("migration.applied", schema=schema, migration=migration.name)
            names.append(migration.name)
    return names


def _check_applied(applied: dict[int, asyncpg.Record], migrations: list[Migration], schema: str) -> None:
    by_number = {migration.number: migration for migration in migrations}
    for number, row in sorted(applied.items()):
        migration = by_number.get(number)
        if migration is None:
            raise MigrationError(
                f"schema {schema} has migration {row['name']}, which this version lacks: run the version that made it"
            )
        if migration.sha256 != row["sha256"]:
            raise MigrationError(
                f"{migration.name} was edited after it was applied to schema {schema}: "
                "restore the file and put the change into a new migration"
            )


async def _apply(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO schema_migrations (number, name, sha256) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.sha256,
            )
    except asyncpg.LockNotAvailableError as error:
        raise MigrationError(
            f"{migration.name} waited {_LOCK_TIMEOUT} for a lock that another session holds; nothing of it was applied"
        ) from error
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration.name} failed, nothing of it was applied: {error}") from error


def _migration(file: Traversable) -> Migration:
    match = _FILE_NAME.fullmatch(file.name)
    if match is None:
        raise MigrationError(f"{file.name} is not named NNNN_verb_object.sql")
    return Migration(number=int(match["number"]), name=file.name.removesuffix(".sql"), sql=file.read_text("utf-8"))
