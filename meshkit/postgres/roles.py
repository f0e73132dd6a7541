"""A role and a schema for each service, so that nobody reads another's tables."""

from __future__ import annotations

import asyncpg

from meshkit.postgres.pool import check_schema_name


async def create_role_and_schema(admin_dsn: str, role: str, password: str, schema: str, database: str) -> None:
    """Makes a role that owns `schema` of the database and can do nothing elsewhere.

    `admin_dsn` is a connection to that database as somebody who may make roles: a superuser, or the database's owner
    with CREATEROLE. Called again, it only sets the password anew.

    Raises:
        ValueError: a name or the password holds characters that it may not.
    """
    check_schema_name(role)
    check_schema_name(schema)
    if not password.isascii() or not password.replace("-", "").replace("_", "").isalnum():
        raise ValueError("the password may hold letters, digits, - and _ only: it becomes part of a URL")
    connection = await asyncpg.connect(admin_dsn)
    try:
        exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role)
        verb = "ALTER" if exists else "CREATE"
        await connection.execute(f"{verb} ROLE {role} LOGIN PASSWORD '{password}'")
        if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            # Who may make a role may not at once make something its own; what is the role's stays out of reach unasked.
            await connection.execute(f"GRANT {role} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE")
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role}")
        await connection.execute(f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {role}")
    finally:
        await connection.close()


async def close_to_public(admin_dsn: str, database: str) -> None:
    """Lets nobody into the database who was not given leave by name."""
    connection = await asyncpg.connect(admin_dsn)
    try:
        await connection.execute(f"REVOKE ALL ON DATABASE {_quoted(database)} FROM PUBLIC")
    finally:
        await connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
