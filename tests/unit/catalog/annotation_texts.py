"""Annotation files for tests, and all that reading them gives."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog_svc.domain.annotations import AnnotationPlan, AnnotationReader, Row
from catalog_svc.domain.dataset_info import DatasetInfo, parse_dataset_info
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.sample import AnnotationFormat, Message, Role, TextPart, VideoPart


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an annotation file says."""

    rows: Sequence[Row]
    issues: Sequence[Issue]
    format: AnnotationFormat | None
    row_count: int


def parse(file: str, data: bytes, info: DatasetInfo | None = None) -> Parsed:
    """Reads a file to its end."""
    reader = AnnotationReader(AnnotationPlan(file, info or DatasetInfo()), lambda _: io.BytesIO(data))
    found = list(reader)
    rows = [row for row in found if isinstance(row, Row)]
    return Parsed(rows, [row for row in found if isinstance(row, Issue)], reader.format, reader.row_count)


def parse_value(*values: Any, info: DatasetInfo | None = None) -> Parsed:
    """Reads JSON lines of these values."""
    return parse("annotations.jsonl", "\n".join(json.dumps(value) for value in values).encode(), info)


def only_issue(parsed: Parsed) -> Issue:
    """Returns the one thing that is wrong, with no row right."""
    assert not parsed.rows
    (found,) = parsed.issues
    return found


def only_messages(parsed: Parsed) -> tuple[Message, ...]:
    """Returns the turns of the one row, with nothing wrong."""
    assert parsed.issues == []
    (row,) = parsed.rows
    return row.sample.messages


def info(**entry: Any) -> DatasetInfo:
    """Returns what a `dataset_info.json` with one entry tells."""
    found = parse_dataset_info(json.dumps({"mine": entry}).encode(), {"annotations.jsonl"})
    assert isinstance(found, DatasetInfo), found
    return found


def user(*parts: str | VideoPart) -> Message:
    """Returns a turn of the user; a path that ends in `.mp4` is a clip."""
    return Message(Role.USER, tuple(_part(part) for part in parts))


def assistant(text: str) -> Message:
    """Returns a turn of the assistant."""
    return Message(Role.ASSISTANT, (TextPart(text),))


def system(text: str) -> Message:
    """Returns the system message."""
    return Message(Role.SYSTEM, (TextPart(text),))


def said(
    *words: str, names: tuple[str, str] = ("human", "gpt"), keys: tuple[str, str] = ("from", "value")
) -> list[Mapping[str, str]]:
    """Returns turns of JSON in which two speak in turn."""
    return [{keys[0]: names[number % 2], keys[1]: text} for number, text in enumerate(words)]


def _part(part: str | VideoPart) -> TextPart | VideoPart:
    if isinstance(part, VideoPart):
        return part
    return VideoPart(part) if part.endswith(".mp4") else TextPart(part)
