"""`reeltune dataset new-version|versions|quarantine|quarantined`."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer
from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import version_service_pb2 as pb

from reeltune_cli.client import ClientError
from reeltune_cli.client.watch import watch_dataset
from reeltune_cli.commands.dataset_views import DatasetArgument
from reeltune_cli.commands.naming import find_dataset
from reeltune_cli.commands.options import LimitOption, YesOption, all_pages
from reeltune_cli.invocation import Invocation
from reeltune_cli.tables import columns, count, enum_word, local_time, to_document

RowOption = Annotated[
    list[str] | None,
    typer.Option("--row", metavar="FILE:ROW", help="Leave out only this row; may be given several times."),
]


async def new_version(cli: Invocation, dataset: DatasetArgument) -> None:
    """Make a new version of a READY dataset, with the same files and none of them sent again."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        request = pb.CreateDatasetVersionRequest(dataset_id=found.id, request_id=str(uuid.uuid4()))
        made = (await client.versions.CreateDatasetVersion(request)).dataset
        next_step = f"send its files: reeltune dataset upload FOLDER --name {made.name}"
        text = f"{made.name} version {made.version} ({made.id}); {next_step}"
        cli.answer({"dataset": to_document(made)}, text)


async def versions(cli: Invocation, dataset: DatasetArgument, limit: LimitOption = 50) -> None:
    """List the versions of a dataset, newest first."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        request = pb.ListDatasetVersionsRequest(dataset_id=found.id)
        all_of_them = await all_pages(client.versions.ListDatasetVersions, request, "datasets", limit)
        rows = [
            (row.version, row.id, _state(row), row.counts.clips, row.counts.rows, local_time(row.create_time))
            for row in all_of_them
        ]
        table = columns(("VERSION", "ID", "STATE", "CLIPS", "ROWS", "CREATED"), rows)
        cli.answer({"datasets": [to_document(row) for row in all_of_them]}, table)


async def quarantine(cli: Invocation, dataset: DatasetArgument, row: RowOption = None, yes: YesOption = False) -> None:
    """Go on without the rows and clips of a dataset that have errors."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        items = [_item(text) for text in row or ()]
        what = count(len(items), "row") if items else f"all that has one of the {count(found.counts.errors, 'error')}"
        cli.confirm(f"Leave {what} out of dataset {found.name}?", yes=yes)
        begun = await client.versions.QuarantineDataset(pb.QuarantineDatasetRequest(dataset_id=found.id, items=items))
        last = begun.dataset
        async for current in watch_dataset(client, found.id):
            last = current
        left_out = f"{count(last.counts.quarantined_rows, 'row')} and {count(last.counts.quarantined_clips, 'clip')}"
        text = f"{last.name} is {_state(last)} without {left_out}; see them: reeltune dataset quarantined {last.id}"
        if last.state != dataset_pb2.DATASET_STATE_READY:
            left = count(last.counts.errors, "error")
            raise ClientError(
                f"{last.name} still has {left}", "DATASET_INVALID", f"see them: reeltune dataset issues {last.id}"
            )
        cli.answer({"dataset": to_document(last)}, text)


async def quarantined(cli: Invocation, dataset: DatasetArgument, limit: LimitOption = 1000) -> None:
    """List the rows and clips that a dataset goes without."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        request = pb.ListQuarantineRequest(dataset_id=found.id)
        items = await all_pages(client.versions.ListQuarantine, request, "items", limit)
        table = columns(
            ("FILE", "ROW", "REASON", "WHAT WAS WRONG"),
            [(item.file, item.row or "", item.reason, item.message) for item in items],
        )
        cli.answer({"items": [to_document(item) for item in items]}, table)


def _item(text: str) -> pb.QuarantinedItem:
    file, _, number = text.rpartition(":")
    if not file or not number.isdecimal():
        raise ClientError(f"--row {text!r} names no row", "ROW_INVALID", "write it as annotations.csv:17")
    return pb.QuarantinedItem(file=file, row=int(number))


def _state(dataset: dataset_pb2.Dataset) -> str:
    return enum_word(dataset_pb2.DatasetState, dataset.state, "DATASET_STATE_")
