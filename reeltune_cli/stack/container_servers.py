"""Servers in containers: the object store of one machine, and the services' roles in a database."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

from meshkit.embedded import free_ports
from meshkit.embedded.seaweed import INNER_PORTS, weed_command, weed_environment
from meshkit.postgres.roles import close_to_public, create_role_and_schema
from reeltune_cli.stack.environment import SCHEMAS


def run_store(data: Path, identities: Path, host: str, port: int) -> NoReturn:
    """Replaces this process by the object store of one machine.

    Raises:
        FileNotFoundError: it is not installed.
    """
    (data / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
    command = weed_command(data, identities, free_ports(INNER_PORTS), port=port, host=host)
    os.chdir(data)
    os.execve(command[0], command, {**os.environ, **weed_environment(data)})  # noqa: S606


async def prepare_database(admin_dsn: str, prepared: Sequence[Path]) -> list[str]:
    """Makes the role and the schema of each service, as its prepared `…_postgres_dsn` says; returns their names.

    `prepared` are folders of settings. Called again, it sets the passwords anew.

    Raises:
        FileNotFoundError: a service's setting is in none of them.
        ValueError: a connection string names no role or another database than `admin_dsn`.
    """
    database = unquote(urlsplit(admin_dsn).path.lstrip("/"))
    for service in SCHEMAS:
        dsn = urlsplit(_read_setting(f"{service}_postgres_dsn", prepared))
        if not dsn.username or not dsn.password or unquote(dsn.path.lstrip("/")) != database:
            raise ValueError(f"{service}_postgres_dsn must be postgresql://ROLE:PASSWORD@host:port/{database}")
        await create_role_and_schema(admin_dsn, dsn.username, unquote(dsn.password), service, database)
    await close_to_public(admin_dsn, database)
    return list(SCHEMAS)


def with_password(dsn: str, password: str) -> str:
    """Returns the connection string with this password in place of its own or none."""
    parts = urlsplit(dsn)
    address = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username}:{quote(password, safe='')}@{address}").geturl()


def _read_setting(name: str, folders: Sequence[Path]) -> str:
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).read_text("utf-8").strip()
    raise FileNotFoundError(
        f"{name} is in none of {', '.join(map(str, folders))}: run `reeltune cluster prepare` first"
    )
