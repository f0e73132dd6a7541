"""`reeltune cluster`: what a mesh of containers, on one machine or many, is made and run with."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

_NEEDS_LOCAL = "this command needs the servers too: pip install 'reeltune[local]'"


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    cluster = typer.Typer(help="Prepare and run a mesh of containers, on one machine or many.", no_args_is_help=True)
    cluster.command("prepare")(prepare)
    cluster.command("database")(database)
    cluster.command("edge")(edge)
    cluster.command("store")(store)
    app.add_typer(cluster, name="cluster")


def prepare(
    out: Annotated[Path, typer.Option(help="Folder to write; keep its folder `authority` safe.")],
    postgres: Annotated[
        str | None, typer.Option(help="host:port of the database; by default postgres:5432.", show_default=False)
    ] = None,
    database_name: Annotated[
        str | None,
        typer.Option("--database", help="Name of the database; by default reeltune.", show_default=False),
    ] = None,
    postgres_options: Annotated[
        str | None,
        typer.Option(
            help="End of the services' connection strings, such as "
            "'?sslmode=verify-full&sslrootcert=/run/reeltune/settings/postgres-ca.crt'.",
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Of the services' names, such as reeltune-.", show_default=False)
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Kubernetes namespace of the services.", show_default=False)
    ] = None,
    edge_name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address that clients reach the edge by; by default this machine's.", show_default=False
        ),
    ] = None,
    change: Annotated[bool, typer.Option("--change", help="Take options that are others than last time.")] = False,
) -> None:
    """Make the secrets, keys and certificates of a mesh, a folder for each part.

    Done again it makes what is missing, and certificates that run out within 30 days; what is there stays. Options are
    kept: those that are left out are as they were.
    """
    try:
        from reeltune_cli.stack.kept_options import prepare_as_before
        from reeltune_cli.stack.secrets_file import SecretsDamaged
    except ModuleNotFoundError as error:
        _refuse(f"{error.name} is missing; {_NEEDS_LOCAL}")
    given = {
        "postgres": postgres,
        "database": database_name,
        "postgres_options": postgres_options,
        "prefix": prefix,
        "namespace": namespace,
        "edge_names": tuple(edge_name) if edge_name else None,
    }
    try:
        wanted = prepare_as_before(out.expanduser().resolve(), given, change=change)
    except (SecretsDamaged, ValueError, OSError, subprocess.CalledProcessError) as error:
        _refuse(str(error))
    Console().print(f"prepared {wanted.out}", soft_wrap=True)


def database(
    admin_dsn: Annotated[
        str,
        typer.Option(envvar="REELTUNE_ADMIN_DSN", help="postgresql://… as superuser, or as owner with CREATEROLE."),
    ],
    prepared: Annotated[
        list[Path], typer.Option(exists=True, file_okay=False, help="Folder of a service's settings; one for each.")
    ],
    password_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File with that role's password.")
    ] = None,
) -> None:
    """Make the role and the schema of each service in the database."""
    try:
        import asyncpg

        from reeltune_cli.stack.container_servers import prepare_database, with_password
    except ModuleNotFoundError as error:
        _refuse(f"{error.name} is missing; {_NEEDS_LOCAL}")
    dsn = with_password(admin_dsn, password_file.read_text("utf-8").strip()) if password_file else admin_dsn
    try:
        made = asyncio.run(prepare_database(dsn, prepared))
    except (asyncpg.PostgresError, OSError, ValueError) as error:
        _refuse(str(error))
    Console().print(f"roles and schemas: {', '.join(made)}")


def edge(
    folder: Annotated[Path, typer.Option(help="Writable folder for the rendered configuration.")],
    upstream: Annotated[list[str], typer.Option(help="NAME=host:port of auth, catalog, scheduler, trainer or s3.")],
    public_tls: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="tls.crt and tls.key that clients are shown.")
    ],
    peer_tls: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="tls.crt, tls.key and ca.crt for mutual TLS with services."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8443,
    object_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of presigned URLs: the edge's public URL, or a store's own.", show_default=False),
    ] = None,
    allowed_origin: Annotated[
        str | None,
        typer.Option(
            help="RE2 pattern of origins of other pages that may call; by default this machine's.", show_default=False
        ),
    ] = None,
    healthy_with: Annotated[
        str, typer.Option(help="Upstreams, with commas between, that /healthz wants to be there.")
    ] = "auth",
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port that shows Envoy's metrics.", show_default=False)
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Threads of Envoy.")] = 2,
    render_only: Annotated[bool, typer.Option(help="Write and check the configuration, and run nothing.")] = False,
) -> None:
    """Render the edge's configuration from the contracts, check it, and become Envoy."""
    try:
        from meshkit.embedded import ServerNotReady
        from reeltune_cli.stack.container_edge import ContainerEdge, render_container_edge, run_edge
        from reeltune_cli.stack.edge import LOOPBACK_ORIGIN
    except ModuleNotFoundError as error:
        _refuse(f"{error.name} is missing; {_NEEDS_LOCAL}")
    wanted = ContainerEdge(
        folder=folder.resolve(),
        upstreams=_upstreams(upstream),
        public_tls=public_tls.resolve(),
        peer_tls=peer_tls.resolve() if peer_tls else None,
        host=host,
        port=port,
        object_origins=tuple(object_origin or ()),
        allowed_origin_pattern=allowed_origin or LOOPBACK_ORIGIN,
        healthy_with=tuple(filter(None, healthy_with.split(","))),
        metrics_port=metrics_port,
        concurrency=concurrency,
    )
    try:
        if render_only:
            Console().print(str(render_container_edge(wanted)), soft_wrap=True)
        else:
            run_edge(wanted)
    except (ServerNotReady, ValueError, OSError) as error:
        _refuse(str(error))


def store(
    data: Annotated[Path, typer.Option(help="Folder that keeps the objects.")],
    identities: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Made by `reeltune cluster prepare`.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8333,
) -> None:
    """Become the object store of one machine."""
    try:
        from reeltune_cli.stack.container_servers import run_store
    except ModuleNotFoundError as error:
        _refuse(f"{error.name} is missing; {_NEEDS_LOCAL}")
    try:
        run_store(data.resolve(), identities.resolve(), host, port)
    except OSError as error:
        _refuse(str(error))


def _upstreams(given: list[str]) -> dict[str, str]:
    known = ("auth", "catalog", "scheduler", "trainer", "s3")
    found = {}
    for text in given:
        name, separator, target = text.partition("=")
        if not separator or name not in known:
            raise typer.BadParameter(f"{text!r} is not NAME=host:port with a NAME of {', '.join(known)}")
        found[name] = target
    return found


def _refuse(text: str) -> NoReturn:
    Console(stderr=True).print(Text.assemble(("reeltune: ", "bold red"), text), soft_wrap=True)
    raise typer.Exit(1)
