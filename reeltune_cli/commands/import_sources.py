"""What `reeltune dataset import` and `reeltune model import` have in common: sources in words, and following them."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Annotated

import typer
from reeltune.catalog.v1 import import_pb2
from reeltune.catalog.v1 import import_service_pb2 as pb
from reeltune.catalog.v1.storage_service_pb2 import ListStorageLocationsRequest

from reeltune_cli.bars import step_bar
from reeltune_cli.client import Client, ClientError
from reeltune_cli.client.watch import watch_import
from reeltune_cli.commands.options import all_pages
from reeltune_cli.invocation import Invocation
from reeltune_cli.tables import columns, count, size

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="https://…, s3://bucket/prefix, hub:org/name[@revision], or file:///folder of the service's machine.",
        show_default=False,
    ),
]
LocationOption = Annotated[
    str | None,
    typer.Option("--location", help="The bucket's storage location, by name or id; none: public.", show_default=False),
]
ANNOTATION_EXTENSIONS = (".csv", ".jsonl", ".json")
_SHOWN_ERRORS = 20
_LOCATION_ID = re.compile(r"loc_[0-9A-Z]{26}")
_FORMS = "give https://…, s3://bucket/prefix, hub:org/name[@revision] or file:///folder"


async def read_source(
    client: Client, text: str, location: str | None, *, has_rows: bool, by_reference: bool = False
) -> import_pb2.ImportSource:
    """Reads a source; `has_rows`: an address that ends like an annotation file is one, and its clips are fetched.

    Raises:
        ClientError: it is none, or there is no such location.
    """
    if text.startswith("s3://"):
        mode = import_pb2.IMPORT_MODE_REFERENCE if by_reference else import_pb2.IMPORT_MODE_COPY
        location_id = await find_location(client, location) if location else ""
        return import_pb2.ImportSource(
            bucket=import_pb2.BucketSource(uri=text, storage_location_id=location_id, mode=mode)
        )
    if location or by_reference:
        raise ClientError("--location and --reference are for s3://…", "ARGUMENT_INVALID", "leave them out")
    if text.startswith("hub:"):
        repository, _, revision = text.removeprefix("hub:").partition("@")
        return import_pb2.ImportSource(hub=import_pb2.HubSource(repository=repository, revision=revision))
    if text.startswith("file:///"):
        return import_pb2.ImportSource(folder=import_pb2.FolderSource(path=text.removeprefix("file://")))
    if not text.startswith(("https://", "http://")):
        raise ClientError(f"{text} is no source", "ARGUMENT_INVALID", _FORMS)
    if has_rows and text.partition("?")[0].lower().endswith(ANNOTATION_EXTENSIONS):
        return import_pb2.ImportSource(annotations=import_pb2.AnnotationSource(url=text))
    return import_pb2.ImportSource(url=import_pb2.UrlSource(url=text))


async def run_import(
    cli: Invocation, client: Client, parent_id: str, source: import_pb2.ImportSource
) -> import_pb2.Import:
    """Begins an import and follows it to its end.

    Raises:
        ClientError: it failed or was cancelled; what it gave up is shown.
    """
    request = pb.CreateImportRequest(parent_id=parent_id, source=source, request_id=str(uuid.uuid4()))
    begun = current = (await client.imports.CreateImport(request)).data_import
    cli.note(f"importing ({begun.id}); it goes on if this command is ended")
    with step_bar(cli.notes) as bar:
        async for current in watch_import(client, begun.id):
            counts = current.counts
            total = counts.files if counts.listed else None
            note = f"{counts.files_done}/{counts.files} files, {size(counts.bytes_done)}"
            bar.show("importing", counts.files_done + counts.files_failed, total, note)
    if current.state == import_pb2.IMPORT_STATE_COMPLETED:
        cli.note(f"imported {count(current.counts.files_done, 'file')}, {size(current.counts.bytes_done)}")
        return current
    if current.counts.files_failed:
        rows = await all_pages(
            client.imports.ListImportErrors, pb.ListImportErrorsRequest(import_id=current.id), "errors", _SHOWN_ERRORS
        )
        table = columns(("FILE", "REASON", "WHAT IS WRONG"), [(row.path, row.reason, row.message) for row in rows])
        cli.notes.print(table)
    if current.state == import_pb2.IMPORT_STATE_CANCELLED:
        raise ClientError("the import was cancelled", "IMPORT_CANCELLED", "run the command again")
    raise ClientError(current.error_message, current.error_reason, "what has come stays; run the command again")


def annotation_path(file: Path) -> str:
    """Returns what an annotation file of this machine is called in its dataset; raises ClientError."""
    if file.suffix.lower() not in ANNOTATION_EXTENSIONS:
        next_step = "name one that ends in .csv, .jsonl or .json"
        raise ClientError(f"{file} is no annotation file by its name", "ARGUMENT_INVALID", next_step)
    return f"annotations{file.suffix.lower()}"


async def find_location(client: Client, named: str) -> str:
    """Returns the id of the storage location with this id or name; raises ClientError."""
    if _LOCATION_ID.fullmatch(named):
        return named
    found = (await client.storage.ListStorageLocations(ListStorageLocationsRequest())).storage_locations
    for location in found:
        if location.name == named:
            return str(location.id)
    raise ClientError(
        f"you have no storage location {named}", "STORAGE_LOCATION_NOT_FOUND", "see them: reeltune storage list"
    )
