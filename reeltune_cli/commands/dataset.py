"""`reeltune dataset upload|import|list|show|issues|clips|statistics|export|delete`, and those of its neighbours."""

from __future__ import annotations

import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from reeltune.catalog.v1 import dataset_content_pb2, dataset_pb2, import_pb2, visibility_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as pb
from rich.console import Group
from rich.table import Table

from reeltune_cli.bars import step_bar
from reeltune_cli.client import Client, ClientError
from reeltune_cli.client.export import export_annotations
from reeltune_cli.client.upload import LocalFile, upload_file
from reeltune_cli.client.watch import watch_dataset
from reeltune_cli.commands.dataset_preview import preview, samples
from reeltune_cli.commands.dataset_versions import new_version, quarantine, quarantined, versions
from reeltune_cli.commands.dataset_views import DatasetArgument, clips, statistics
from reeltune_cli.commands.entry_life import DeletedOption, dataset_uses, undelete_dataset
from reeltune_cli.commands.folder_upload import create_or_resume, send_folder
from reeltune_cli.commands.import_sources import LocationOption, annotation_path, read_source, run_import
from reeltune_cli.commands.naming import find_dataset
from reeltune_cli.commands.options import (
    DescriptionOption,
    FilterOption,
    FolderArgument,
    LimitOption,
    NameOption,
    SharedOption,
    YesOption,
    all_pages,
)
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import columns, count, enum_word, facts, local_time, size, to_document

_SHOWN_ISSUES = 50


class ExportFormat(StrEnum):
    """The forms that samples are written in."""

    CONTENT_PARTS = "content-parts"
    COLUMNS = "columns"
    SHAREGPT = "sharegpt"
    OPENAI_MESSAGES = "openai-messages"
    MS_SWIFT = "ms-swift"
    LLAVA = "llava"


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    commands = typer.Typer(help="Datasets: clips and what they show.", no_args_is_help=True)
    add_command(commands, "upload", upload)
    add_command(commands, "import", import_files)
    add_command(commands, "list", list_all)
    add_command(commands, "show", show)
    add_command(commands, "issues", issues)
    add_command(commands, "clips", clips)
    add_command(commands, "statistics", statistics)
    add_command(commands, "samples", samples)
    add_command(commands, "preview", preview)
    add_command(commands, "export", export)
    add_command(commands, "new-version", new_version)
    add_command(commands, "versions", versions)
    add_command(commands, "quarantine", quarantine)
    add_command(commands, "quarantined", quarantined)
    add_command(commands, "uses", dataset_uses)
    add_command(commands, "delete", delete)
    add_command(commands, "undelete", undelete_dataset)
    app.add_typer(commands, name="dataset")


async def upload(
    cli: Invocation,
    folder: FolderArgument,
    name: NameOption = None,
    description: DescriptionOption = "",
    shared: SharedOption = False,
) -> None:
    """Upload a folder of clips with its annotation file, and have every clip decoded and every row checked.

    The same command again goes on where it was cut, and replaces what was mended meanwhile.
    """
    async with cli.client() as client:
        dataset = await _create_or_resume(cli, client, name or folder.resolve().name, description, shared)
        await send_folder(cli, client, dataset.id, folder)
        await _conclude(cli, client, dataset.id)


async def import_files(
    cli: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name.", show_default=False)],
    source: Annotated[
        str,
        typer.Argument(
            metavar="[SOURCE]",
            help="https://…, s3://bucket/prefix, hub:org/name[@revision], or file:///folder of the service's machine.",
            show_default=False,
        ),
    ] = "",
    annotation: Annotated[
        Path | None,
        typer.Option(
            "--annotation",
            exists=True,
            dir_okay=False,
            help="Annotation file of this machine; without SOURCE its rows name clips by https addresses.",
            show_default=False,
        ),
    ] = None,
    location: LocationOption = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Leave clips in their bucket and read them there.")
    ] = False,
    description: DescriptionOption = "",
    shared: SharedOption = False,
) -> None:
    """Have the mesh fetch clips from where they are, then have every clip decoded and every row checked.

    An https address that ends in .csv, .jsonl or .json is an annotation file, whose rows name their clips by address.
    """
    if not source and annotation is None:
        raise ClientError("there is nothing to import", "ARGUMENT_INVALID", "name a SOURCE, or an --annotation file")
    async with cli.client() as client:
        dataset = await _create_or_resume(cli, client, name, description, shared)
        wanted = import_pb2.ImportSource()
        if annotation is not None:
            file = LocalFile(annotation, annotation_path(annotation), annotation.stat().st_size)
            await upload_file(client, dataset.id, file)
            wanted.annotations.file = file.path
        if source:
            wanted = await read_source(client, source, location, has_rows=annotation is None, by_reference=reference)
        await run_import(cli, client, dataset.id, wanted)
        await _conclude(cli, client, dataset.id)


async def _conclude(cli: Invocation, client: Client, dataset_id: str) -> None:
    """Validates a dataset and answers with it; raises ClientError if it has errors."""
    dataset = await _validate(cli, client, dataset_id)
    if dataset.state == dataset_pb2.DATASET_STATE_READY:
        cli.answer({"dataset": to_document(dataset)}, _facts(dataset))
        return
    found = await _issues(client, dataset.id, _SHOWN_ISSUES)
    cli.notes.print(_issue_table(found))
    raise ClientError(
        f"dataset {dataset.name} has {count(dataset.counts.errors, 'error')}",
        "DATASET_INVALID",
        "mend the folder and run the command again, or go on without them: "
        f"reeltune dataset quarantine {dataset.id}; all of them: reeltune dataset issues {dataset.id}",
    )


async def list_all(
    cli: Invocation,
    filter: FilterOption = "",  # noqa: A002
    limit: LimitOption = 50,
    deleted: DeletedOption = False,
) -> None:
    """List your datasets and those that others share."""
    async with cli.client() as client:
        request = pb.ListDatasetsRequest(filter=filter, show_deleted=deleted)
        found = await all_pages(client.datasets.ListDatasets, request, "datasets", limit)
        rows = [
            (row.name, row.version, row.id, _state(row), row.counts.clips, row.counts.rows,
             size(row.counts.size_bytes), local_time(row.create_time))
            for row in found
        ]  # fmt: skip
        table = columns(("NAME", "VERSION", "ID", "STATE", "CLIPS", "ROWS", "SIZE", "CREATED"), rows)
        cli.answer({"datasets": [to_document(row) for row in found]}, table)


async def show(cli: Invocation, dataset: DatasetArgument) -> None:
    """Show a dataset."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        cli.answer({"dataset": to_document(found)}, _facts(found))


async def issues(cli: Invocation, dataset: DatasetArgument, limit: LimitOption = 1000) -> None:
    """List what the last validation found wrong, by file and row."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        rows = await _issues(client, found.id, limit)
        text = Group(_issue_table(rows)) if rows else Group(f"{found.name}: nothing is wrong")
        cli.answer({"issues": [to_document(row) for row in rows]}, text)


async def export(
    cli: Invocation,
    dataset: DatasetArgument,
    form: Annotated[
        ExportFormat, typer.Option("--format", help="The form of the file; content parts have a place for everything.")
    ] = ExportFormat.CONTENT_PARTS,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", dir_okay=False, help="The file; by default annotations.json, .jsonl or .csv in this folder."
        ),
    ] = None,
) -> None:
    """Write what a dataset's clips show as the annotation file of another trainer."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        number = dataset_pb2.AnnotationFormat.Value(f"ANNOTATION_FORMAT_{form.name}")
        path = await export_annotations(client, found.id, number, to)
        cli.answer({"file": str(path)}, f"{path}: {count(found.counts.rows, 'row')} as {form.value}")


async def delete(cli: Invocation, dataset: DatasetArgument, yes: YesOption = False) -> None:
    """Delete a dataset; it can be brought back for 7 days."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        cli.confirm(f"Delete dataset {found.name} with {count(found.counts.files, 'file')}?", yes=yes)
        await client.datasets.DeleteDataset(pb.DeleteDatasetRequest(dataset_id=found.id))
        cli.answer({"deleted": found.id}, f"deleted {found.name}; bring it back: reeltune dataset undelete {found.id}")


async def _create_or_resume(
    cli: Invocation, client: Client, name: str, description: str, shared: bool
) -> dataset_pb2.Dataset:
    request = pb.CreateDatasetRequest(
        name=name,
        description=description,
        visibility=visibility_pb2.VISIBILITY_SHARED if shared else visibility_pb2.VISIBILITY_PRIVATE,
        request_id=str(uuid.uuid4()),
    )

    async def create() -> dataset_pb2.Dataset:
        return (await client.datasets.CreateDataset(request)).dataset

    def way_out(found: dataset_pb2.Dataset) -> str:
        return f"make a new version of it: reeltune dataset new-version {found.id}, or choose another --name"

    dataset, is_new = await create_or_resume(
        "dataset", name, create, lambda: find_dataset(client, name), _state, way_out
    )
    if not is_new:
        cli.note(f"going on with dataset {name} version {dataset.version} ({dataset.id})")
    return dataset


async def _validate(cli: Invocation, client: Client, dataset_id: str) -> dataset_pb2.Dataset:
    dataset = (await client.datasets.ValidateDataset(pb.ValidateDatasetRequest(dataset_id=dataset_id))).dataset
    with step_bar(cli.notes) as bar:
        async for dataset in watch_dataset(client, dataset_id):
            counts = dataset.counts
            bar.show("checking clips", counts.clips_checked, counts.clips, f"{counts.clips_checked}/{counts.clips}")
    return dataset


async def _issues(client: Client, dataset_id: str, limit: int) -> list[dataset_pb2.DatasetIssue]:
    request = dataset_content_pb2.ListDatasetIssuesRequest(dataset_id=dataset_id)
    return await all_pages(client.datasets.ListDatasetIssues, request, "issues", limit)


def _issue_table(found: list[dataset_pb2.DatasetIssue]) -> Table:
    rows = [
        (
            enum_word(dataset_pb2.IssueSeverity, issue.severity, "ISSUE_SEVERITY_"),
            issue.file + (f" row {issue.row}" if issue.row else "") + (f" {issue.field}" if issue.field else ""),
            issue.reason,
            f"{issue.message} {issue.remedy}".strip(),
        )
        for issue in found
    ]
    return columns(("", "WHERE", "REASON", "WHAT IS WRONG, AND WHAT TO DO"), rows)


def _state(dataset: dataset_pb2.Dataset) -> str:
    if dataset.HasField("delete_time"):
        return "DELETED"
    return enum_word(dataset_pb2.DatasetState, dataset.state, "DATASET_STATE_")


def _quarantined(counts: dataset_pb2.DatasetCounts) -> str:
    if not counts.quarantined_rows and not counts.quarantined_clips:
        return ""
    return f"{count(counts.quarantined_rows, 'row')}, {count(counts.quarantined_clips, 'clip')}"


def _facts(dataset: dataset_pb2.Dataset) -> Table:
    counts = dataset.counts
    known = dataset.annotation_format != dataset_pb2.ANNOTATION_FORMAT_UNSPECIFIED
    annotations = enum_word(dataset_pb2.AnnotationFormat, dataset.annotation_format, "ANNOTATION_FORMAT_")
    return facts(
        [
            ("name", dataset.name),
            ("id", dataset.id),
            ("version", dataset.version),
            ("state", _state(dataset)),
            ("description", dataset.description),
            ("visibility", enum_word(visibility_pb2.Visibility, dataset.visibility, "VISIBILITY_")),
            ("files", f"{counts.files:,}, {size(counts.size_bytes)}"),
            ("clips", f"{counts.clips:,}, {counts.duration_seconds:.1f} s"),
            ("rows", f"{counts.rows:,} ({counts.train_rows:,} train, {counts.eval_rows:,} other)"),
            ("quarantined", _quarantined(counts)),
            ("annotations", annotations if known else ""),
            ("issues", f"{count(counts.errors, 'error')}, {count(counts.warnings, 'warning')}"),
            ("fingerprint", dataset.fingerprint),
            ("created", local_time(dataset.create_time)),
        ]
    )
