"""`reeltune model upload|import|list|show|delete`."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer
from reeltune.catalog.v1 import model_pb2, visibility_pb2
from reeltune.catalog.v1 import model_service_pb2 as pb
from rich.console import Group
from rich.table import Table

from reeltune_cli.bars import step_bar
from reeltune_cli.client import Client, ClientError
from reeltune_cli.client.watch import watch_model
from reeltune_cli.commands.entry_life import DeletedOption, ModelArgument, model_uses, undelete_model
from reeltune_cli.commands.folder_upload import create_or_resume, send_folder
from reeltune_cli.commands.import_sources import LocationOption, SourceArgument, read_source, run_import
from reeltune_cli.commands.naming import find_model
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


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    commands = typer.Typer(help="Base models: safetensors with their configuration.", no_args_is_help=True)
    add_command(commands, "upload", upload)
    add_command(commands, "import", import_files)
    add_command(commands, "list", list_all)
    add_command(commands, "show", show)
    add_command(commands, "uses", model_uses)
    add_command(commands, "delete", delete)
    add_command(commands, "undelete", undelete_model)
    app.add_typer(commands, name="model")


async def upload(
    cli: Invocation,
    folder: FolderArgument,
    name: NameOption = None,
    description: DescriptionOption = "",
    shared: SharedOption = False,
) -> None:
    """Upload a model folder (safetensors, config, tokenizer and processor files) and have it checked.

    The same command again goes on where it was cut, and replaces what was mended meanwhile.
    """
    async with cli.client() as client:
        model = await _create_or_resume(cli, client, name or folder.resolve().name, description, shared)
        await send_folder(cli, client, model.id, folder)
        await _conclude(cli, client, model.id)


async def import_files(
    cli: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.", show_default=False)],
    source: SourceArgument,
    location: LocationOption = None,
    description: DescriptionOption = "",
    shared: SharedOption = False,
) -> None:
    """Have the mesh fetch a model's files from where they are, and check them.

    What no model folder may hold, such as pickled weights, is left out; a source with code in it is refused.
    """
    async with cli.client() as client:
        model = await _create_or_resume(cli, client, name, description, shared)
        await run_import(cli, client, model.id, await read_source(client, source, location, has_rows=False))
        await _conclude(cli, client, model.id)


async def _conclude(cli: Invocation, client: Client, model_id: str) -> None:
    """Validates a model and answers with it; raises ClientError if it has errors."""
    model = await _validate(cli, client, model_id)
    if model.state == model_pb2.MODEL_STATE_READY:
        cli.answer({"model": to_document(model)}, _facts(model))
        return
    cli.notes.print(_issue_table(model))
    raise ClientError(
        f"model {model.name} has {count(len(model.issues), 'error')}",
        "MODEL_INVALID",
        "mend the folder and run the command again",
    )


async def list_all(
    cli: Invocation,
    filter: FilterOption = "",  # noqa: A002
    limit: LimitOption = 50,
    deleted: DeletedOption = False,
) -> None:
    """List your models and those that others share."""
    async with cli.client() as client:
        request = pb.ListModelsRequest(filter=filter, show_deleted=deleted)
        found = await all_pages(client.models.ListModels, request, "models", limit)
        rows = [
            (row.name, row.id, _state(row), row.facts.model_type, f"{row.facts.parameter_count:,}",
             size(row.facts.size_bytes), local_time(row.create_time))
            for row in found
        ]  # fmt: skip
        table = columns(("NAME", "ID", "STATE", "TYPE", "PARAMETERS", "SIZE", "CREATED"), rows)
        cli.answer({"models": [to_document(row) for row in found]}, table)


async def show(cli: Invocation, model: ModelArgument) -> None:
    """Show a model, and what is wrong with it if anything is."""
    async with cli.client() as client:
        found = await find_model(client, model)
        text = Group(_facts(found), _issue_table(found)) if found.issues else Group(_facts(found))
        cli.answer({"model": to_document(found)}, text)


async def delete(cli: Invocation, model: ModelArgument, yes: YesOption = False) -> None:
    """Delete a model; it can be brought back for 7 days."""
    async with cli.client() as client:
        found = await find_model(client, model)
        cli.confirm(f"Delete model {found.name} ({size(found.facts.size_bytes)})?", yes=yes)
        await client.models.DeleteModel(pb.DeleteModelRequest(model_id=found.id))
        cli.answer({"deleted": found.id}, f"deleted {found.name}; bring it back: reeltune model undelete {found.id}")


async def _create_or_resume(
    cli: Invocation, client: Client, name: str, description: str, shared: bool
) -> model_pb2.Model:
    request = pb.CreateModelRequest(
        name=name,
        description=description,
        visibility=visibility_pb2.VISIBILITY_SHARED if shared else visibility_pb2.VISIBILITY_PRIVATE,
        request_id=str(uuid.uuid4()),
    )

    async def create() -> model_pb2.Model:
        return (await client.models.CreateModel(request)).model

    def way_out(found: model_pb2.Model) -> str:
        return f"choose another --name, or delete it: reeltune model delete {found.id}"

    model, is_new = await create_or_resume("model", name, create, lambda: find_model(client, name), _state, way_out)
    if not is_new:
        cli.note(f"going on with model {name} ({model.id})")
    return model


async def _validate(cli: Invocation, client: Client, model_id: str) -> model_pb2.Model:
    model = (await client.models.ValidateModel(pb.ValidateModelRequest(model_id=model_id))).model
    with step_bar(cli.notes) as bar:
        bar.show("checking the model", 0, None)
        async for model in watch_model(client, model_id):
            bar.show("checking the model", 0, None, _state(model))
    return model


def _issue_table(model: model_pb2.Model) -> Table:
    rows = [(issue.file, issue.reason, f"{issue.message} {issue.remedy}".strip()) for issue in model.issues]
    return columns(("FILE", "REASON", "WHAT IS WRONG, AND WHAT TO DO"), rows)


def _state(model: model_pb2.Model) -> str:
    if model.HasField("delete_time"):
        return "DELETED"
    return enum_word(model_pb2.ModelState, model.state, "MODEL_STATE_")


def _facts(model: model_pb2.Model) -> Table:
    known = model.facts
    return facts(
        [
            ("name", model.name),
            ("id", model.id),
            ("state", _state(model)),
            ("description", model.description),
            ("visibility", enum_word(visibility_pb2.Visibility, model.visibility, "VISIBILITY_")),
            ("type", known.model_type),
            ("architecture", known.architecture),
            ("parameters", f"{known.parameter_count:,}" if known.parameter_count else ""),
            ("size", size(known.size_bytes) if known.size_bytes else ""),
            ("context", f"{known.context_length:,} tokens" if known.context_length else ""),
            ("most frames", known.max_frames or ""),
            ("chat template", _template(known) if known.parts else ""),
            *((enum_word(model_pb2.ModelPartKind, part.kind, "MODEL_PART_KIND_"), _part(part)) for part in known.parts),
            ("in 4 bits", f"{size(known.memory_4bit_bytes)} of weights" if known.memory_4bit_bytes else ""),
            ("in 16 bits", f"{size(known.memory_16bit_bytes)} of weights" if known.memory_16bit_bytes else ""),
            ("forward step", _forward(model.forward_check)),
            ("fingerprint", known.fingerprint),
            ("created", local_time(model.create_time)),
        ]
    )


def _template(known: model_pb2.ModelFacts) -> str:
    if not known.has_chat_template:
        return "none: it cannot be trained"
    return "marks what the assistant says" if known.has_generation_marks else "without marks: answers are found by turn"


def _part(part: model_pb2.ModelPart) -> str:
    layers = f"{count(part.linear_layer_count, 'layer')} for LoRA: {', '.join(part.lora_modules)}"
    return f"{part.parameter_count:,} parameters" + (f", {layers}" if part.lora_modules else "")


def _forward(check: model_pb2.ForwardCheck) -> str:
    word = enum_word(model_pb2.ForwardCheckState, check.state, "FORWARD_CHECK_STATE_")
    return f"{word}: {check.message}" if check.message else word
