"""How resources look: as JSON documents and as tables for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table

from reeltune_cli.invocation import printable

_UNITS = ("B", "KB", "MB", "GB", "TB")


def to_document(message: Message) -> dict[str, Any]:
    """Returns the message as the mesh's HTTP door would send it, with fields that hold their default, too."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def columns(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Returns a table with a line for each row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(printable(str(cell)) for cell in row))
    return table


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Returns a list of names and values, without those that are empty."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value not in ("", None):
            table.add_row(name, printable(str(value)))
    return table


def enum_word(enum: Any, number: int, prefix: str) -> str:
    """Returns `ready` for `DATASET_STATE_READY`."""
    name: str = enum.Name(number) if number in enum.values() else str(number)
    return name.removeprefix(prefix).lower().replace("_", " ")


def local_time(time: Timestamp) -> str:
    """Returns a time in this machine's zone, or nothing for an absent one."""
    if not time.ByteSize():
        return ""
    return datetime.fromtimestamp(time.ToMilliseconds() / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(size_bytes: float) -> str:
    """Returns `1.2 MB` for 1200000."""
    for unit in _UNITS:
        if size_bytes < 1000 or unit == _UNITS[-1]:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError("unreachable")


def count(number: int, noun: str) -> str:
    """Returns `1 file`, `2 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
