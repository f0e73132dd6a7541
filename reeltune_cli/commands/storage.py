"""`reeltune storage add|list|credentials|delete`: buckets of your own to import from."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from reeltune.catalog.v1 import storage_location_pb2
from reeltune.catalog.v1 import storage_service_pb2 as pb
from rich.table import Table

from reeltune_cli.client import ClientError
from reeltune_cli.commands.import_sources import find_location
from reeltune_cli.commands.options import YesOption
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import columns, facts, local_time, to_document

LocationArgument = Annotated[str, typer.Argument(metavar="LOCATION", help="Its name or id.", show_default=False)]
SecretStdin = Annotated[
    bool, typer.Option("--secret-stdin", help="Read the secret key from stdin: for scripts; it never is an argument.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    commands = typer.Typer(help="Storage: buckets of your own to import from.", no_args_is_help=True)
    add_command(commands, "add", add)
    add_command(commands, "list", list_all)
    add_command(commands, "credentials", credentials)
    add_command(commands, "delete", delete)
    app.add_typer(commands, name="storage")


async def add(
    cli: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.", show_default=False)],
    store: Annotated[str, typer.Option("--store", help="Where the store is: https://host.", show_default=False)],
    bucket: Annotated[str, typer.Option("--bucket", help="The bucket.", show_default=False)],
    region: Annotated[str, typer.Option("--region", help="What to sign for; by default us-east-1.")] = "",
    access_key_id: Annotated[
        str, typer.Option("--access-key-id", help="Who reads; left out: everybody may.", show_default=False)
    ] = "",
    secret_stdin: SecretStdin = False,
) -> None:
    """Register a bucket. Its secret key is kept encrypted and never shown; give one that may only list and read."""
    request = pb.CreateStorageLocationRequest(name=name, endpoint=store, bucket=bucket, region=region)
    if access_key_id:
        request.credentials.CopyFrom(_credentials(access_key_id, secret_stdin))
    async with cli.client() as client:
        made = (await client.storage.CreateStorageLocation(request)).storage_location
        cli.answer({"storage_location": to_document(made)}, _facts(made))


async def list_all(cli: Invocation) -> None:
    """List your storage locations."""
    async with cli.client() as client:
        found = (await client.storage.ListStorageLocations(pb.ListStorageLocationsRequest())).storage_locations
        rows = [
            (row.name, row.id, row.endpoint, row.bucket, row.access_key_id, local_time(row.create_time))
            for row in found
        ]
        table = columns(("NAME", "ID", "STORE", "BUCKET", "ACCESS KEY", "CREATED"), rows)
        cli.answer({"storage_locations": [to_document(row) for row in found]}, table)


async def credentials(
    cli: Invocation,
    location: LocationArgument,
    access_key_id: Annotated[str, typer.Option("--access-key-id", help="Who reads.", show_default=False)],
    secret_stdin: SecretStdin = False,
) -> None:
    """Replace the credentials of a storage location."""
    given = _credentials(access_key_id, secret_stdin)
    async with cli.client() as client:
        location_id = await find_location(client, location)
        request = pb.UpdateStorageCredentialsRequest(storage_location_id=location_id, credentials=given)
        changed = (await client.storage.UpdateStorageCredentials(request)).storage_location
        cli.answer({"storage_location": to_document(changed)}, _facts(changed))


async def delete(cli: Invocation, location: LocationArgument, yes: YesOption = False) -> None:
    """Forget a storage location and its secret."""
    async with cli.client() as client:
        location_id = await find_location(client, location)
        cli.confirm(f"Forget storage location {location}?", yes=yes)
        await client.storage.DeleteStorageLocation(pb.DeleteStorageLocationRequest(storage_location_id=location_id))
        cli.answer({"deleted": location_id}, f"forgot {location} ({location_id})")


def _credentials(access_key_id: str, secret_stdin: bool) -> pb.StorageCredentials:
    if secret_stdin:
        secret = sys.stdin.readline().rstrip("\n")
    elif sys.stdin.isatty():
        secret = typer.prompt("Secret key", hide_input=True, err=True)
    else:
        raise ClientError("there is no terminal to ask for the secret key", "SECRET_MISSING", "use --secret-stdin")
    return pb.StorageCredentials(access_key_id=access_key_id, secret_access_key=secret)


def _facts(location: storage_location_pb2.StorageLocation) -> Table:
    return facts(
        [
            ("name", location.name),
            ("id", location.id),
            ("store", location.endpoint),
            ("region", location.region),
            ("bucket", location.bucket),
            ("access key", location.access_key_id),
            ("changed", local_time(location.update_time)),
        ]
    )
