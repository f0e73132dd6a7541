"""`reeltune usage show|list`."""

from __future__ import annotations

from typing import Annotated

import typer
from reeltune.catalog.v1 import usage_service_pb2 as pb
from rich.table import Table

from reeltune_cli.commands.naming import find_user_id
from reeltune_cli.commands.options import LimitOption, all_pages
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import columns, facts, size, to_document


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    commands = typer.Typer(help="How much datasets and models take up.", no_args_is_help=True)
    add_command(commands, "show", show)
    add_command(commands, "list", list_all)
    app.add_typer(commands, name="usage")


async def show(
    cli: Invocation,
    user: Annotated[
        str | None, typer.Argument(help="Username or id; yours if left out, others' for admins.", show_default=False)
    ] = None,
) -> None:
    """Show what a user has stored; the limit is that of `reeltune quota show`."""
    async with cli.client() as client:
        if user is None:
            usage = (await client.usage.GetMyUsage(pb.GetMyUsageRequest())).usage
        else:
            request = pb.GetUsageRequest(user_id=await find_user_id(client, user))
            usage = (await client.usage.GetUsage(request)).usage
        cli.answer({"usage": to_document(usage)}, _facts(usage))


async def list_all(cli: Invocation, limit: LimitOption = 1000) -> None:
    """List what everybody has stored; admins only."""
    async with cli.client() as client:
        found = await all_pages(client.usage.ListUsage, pb.ListUsageRequest(), "usage", limit)
        rows = [
            (usage.user_id, size(usage.stored_bytes), usage.stored_files, usage.datasets, usage.models)
            for usage in found
        ]
        table = columns(("USER", "STORED", "FILES", "DATASETS", "MODELS"), rows)
        cli.answer({"usage": [to_document(usage) for usage in found]}, table)


def _facts(usage: pb.Usage) -> Table:
    return facts(
        [
            ("user", usage.user_id),
            ("stored", f"{size(usage.stored_bytes)} in {usage.stored_files:,} different files"),
            ("on their way", size(usage.pending_bytes) if usage.pending_bytes else ""),
            ("datasets", f"{usage.datasets:,}, {size(usage.dataset_bytes)}"),
            ("models", f"{usage.models:,}, {size(usage.model_bytes)}"),
        ]
    )
