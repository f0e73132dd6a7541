"""A fresh database for each test, in milliseconds: a copy of a template that was migrated once."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg

from meshkit.embedded import PostgresServer
from meshkit.postgres import migrate


@dataclass(frozen=True, slots=True)
class DatabaseSpec:
    """What a service's database holds."""

    schema: str
    """Name of the schema and of the role that owns it."""
    migrations: str | None = None
    """Package of the migrations, e.g. `auth_svc.sql.migrations`."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database for one test."""

    name: str
    schema: str
    dsn: str
    """As the service's own role."""
    superuser_dsn: str = field(repr=False)


class DatabaseFactory:
    """Makes databases on one server; each spec's template is made when it is first asked for."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._password = secrets.token_urlsafe(12)
        self._templates: dict[DatabaseSpec, str] = {}

    @contextlib.asynccontextmanager
    async def fresh(self, spec: DatabaseSpec) -> AsyncIterator[Database]:
        """Gives a new database, migrated and empty, and drops it afterwards, whoever is still connected."""
        template = await self._template(spec)
        name = f"test_{secrets.token_hex(6)}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield Database(
                name=name,
                schema=spec.schema,
                dsn=self._server.role_dsn(spec.schema, self._password, name),
                superuser_dsn=self._server.dsn(name),
            )
        finally:
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _template(self, spec: DatabaseSpec) -> str:
        if spec not in self._templates:
            name = f"template_{spec.schema}_{len(self._templates)}"
            await self._execute(f"CREATE DATABASE {name}")
            dsn = await self._server.create_role_and_schema(spec.schema, self._password, spec.schema, database=name)
            if spec.migrations is not None:
                await migrate(dsn, spec.schema, spec.migrations)
            self._templates[spec] = name
        return self._templates[spec]

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._server.dsn())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
