"""Folders into datasets and models: made or gone on with, sent with bars, and told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc

from meshkit.rpc.status import failure_from_rpc_error
from reeltune_cli.bars import transfer_bars
from reeltune_cli.client import Client, ClientError
from reeltune_cli.client.upload import upload_folder
from reeltune_cli.invocation import Invocation
from reeltune_cli.tables import count, size

_OPEN_STATES = ("pending", "error")
_Entry = TypeVar("_Entry")


async def create_or_resume(
    noun: str,
    name: str,
    create: Callable[[], Awaitable[_Entry]],
    find: Callable[[], Awaitable[_Entry]],
    state_of: Callable[[_Entry], str],
    way_out: Callable[[_Entry], str],
) -> tuple[_Entry, bool]:
    """Creates a dataset or model, or finds the one of that name; tells which of the two.

    Raises:
        ClientError: the one that is there takes no files; `way_out` says what to do.
    """
    try:
        return await create(), True
    except grpc.aio.AioRpcError as error:
        if failure_from_rpc_error(error).reason != f"{noun.upper()}_EXISTS":
            raise
    found = await find()
    if state_of(found) not in _OPEN_STATES:
        what = f"you have a {noun} {name} already, and it is {state_of(found)}"
        raise ClientError(what, f"{noun.upper()}_EXISTS", way_out(found))
    return found, False


async def send_folder(cli: Invocation, client: Client, entry_id: str, folder: Path) -> None:
    """Makes the files of a dataset or model those of a folder, with a bar for all and one for each that moves."""
    with transfer_bars(cli.notes, "uploaded") as bars:
        summary = await upload_folder(client, entry_id, folder, bars)
    cli.note(f"uploaded {count(summary.files, 'file')}, {size(summary.size_bytes)}")
    for path in summary.removed:
        cli.note(f"removed {path}: the folder does not hold it any more")
