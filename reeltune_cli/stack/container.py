"""What containers run beside the services: the edge, the object store, and what makes roles in the database."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

from meshkit.embedded import free_ports
from meshkit.embedded.envoy import envoy_binary, validate_envoy_config
from meshkit.embedded.seaweed import INNER_PORTS, weed_command, weed_environment
from meshkit.postgres.roles import close_to_public, create_role_and_schema
from reeltune_cli.stack.edge import LOOPBACK_ORIGIN, EdgeSettings, Endpoint, PeerTls, render_edge
from reeltune_cli.stack.environment import SCHEMAS
from reeltune_cli.stack.site import load_site


@dataclass(frozen=True, slots=True)
class ContainerEdge:
    """How one edge of a cluster is run. Folders of certificates hold `tls.crt`, `tls.key` and `ca.crt`."""

    folder: Path
    """Where its configuration is written: it must be writable, and need not outlive the container."""
    upstreams: Mapping[str, str]
    """`host:port` of `auth`, `catalog`, `scheduler`, `trainer` and `s3`."""
    public_tls: Path
    peer_tls: Path | None = None
    host: str = "0.0.0.0"  # noqa: S104 -- a container's own address
    port: int = 8443
    object_origins: tuple[str, ...] = ()
    """Origins of presigned URLs, where pages send files to: the edge's public URL, or a store's own."""
    allowed_origin_pattern: str = LOOPBACK_ORIGIN
    healthy_with: tuple[str, ...] = ("auth",)
    concurrency: int = 2


def render_container_edge(wanted: ContainerEdge) -> Path:
    """Writes the edge's configuration, asks Envoy whether it would take it, and returns its path.

    Raises:
        ValueError: an upstream is not `host:port`.
        ServerNotReady: Envoy refuses it; the text quotes why.
        FileNotFoundError: Envoy is not installed.
    """
    peer = wanted.peer_tls
    settings = EdgeSettings(
        port=wanted.port,
        host=wanted.host,
        certificate=wanted.public_tls / "tls.crt",
        key=wanted.public_tls / "tls.key",
        upstreams={name: (Endpoint.from_target(target),) for name, target in wanted.upstreams.items()},
        access_log=None,
        site=load_site(object_origins=wanted.object_origins),
        peer_tls=PeerTls(peer / "ca.crt", peer / "tls.crt", peer / "tls.key") if peer else None,
        healthy_with=wanted.healthy_with,
        allowed_origin_pattern=wanted.allowed_origin_pattern,
    )
    config = render_edge(settings, wanted.folder)
    validate_envoy_config(config)
    return config


def run_edge(wanted: ContainerEdge) -> NoReturn:
    """Renders the edge and replaces this process by Envoy, so that signals and the exit code are its own."""
    config = render_container_edge(wanted)
    # Envoy's sockets are relative to where it runs.
    os.chdir(wanted.folder)
    binary = envoy_binary()
    arguments = ["-c", str(config), "--disable-hot-restart", "--concurrency", str(wanted.concurrency)]
    os.execv(binary, [binary, *arguments, "--log-level", "warning"])  # noqa: S606


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
