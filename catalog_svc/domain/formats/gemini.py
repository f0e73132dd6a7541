"""Gemini on Vertex AI.

    {"systemInstruction": {"parts": [{"text": "S"}]},
     "contents": [{"role": "user", "parts": [{"fileData": {"mimeType": "video/mp4", "fileUri": "gs://b/v.mp4"},
                                              "videoMetadata": {"startOffset": "1.5s", "endOffset": "4s", "fps": 2}},
                                             {"text": "Q"}]},
                  {"role": "model", "parts": [{"text": "A"}]}]}

Names may be written with underscores as well. A clip is looked for under its key, `v.mp4`, as if the dataset's folder
were the bucket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from catalog_svc.domain.formats.fields import (
    MAX_MESSAGES,
    MAX_PARTS,
    BadRow,
    read_list,
    read_object,
    read_role,
    read_text,
)
from catalog_svc.domain.formats.format import Format, RowValue
from catalog_svc.domain.formats.row_builder import RowBuilder
from catalog_svc.domain.issue import shown
from catalog_svc.domain.sample import AnnotationFormat, ContentPart, Role, TextPart

_ROLES = {"user": Role.USER, "model": Role.ASSISTANT}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_PART_FORM = '{"text": …} or {"fileData": {"mimeType": "video/mp4", "fileUri": …}}'


def _fits(row: RowValue) -> bool:
    return "contents" in row


def _read(row: RowValue, builder: RowBuilder) -> None:
    name, system = _get(row, "systemInstruction")
    if system:
        system = read_object(system, name, '{"parts": [{"text": …}]}')
        parts = _parts(system.get("parts"), f"{name}.parts", builder)
        builder.say(Role.SYSTEM, parts, role_field=name, content_field=f"{name}.parts")
    for number, turn in enumerate(read_list(row.get("contents"), "contents", MAX_MESSAGES)):
        field = f"contents[{number}]"
        turn = read_object(turn, field, '{"role": …, "parts": […]}')
        role = read_role(turn.get("role"), f"{field}.role", _ROLES, is_mappable=False)
        parts = _parts(turn.get("parts"), f"{field}.parts", builder)
        builder.say(role, parts, role_field=f"{field}.role", content_field=f"{field}.parts")


def _parts(content: Any, field: str, builder: RowBuilder) -> list[ContentPart]:
    listed = read_list(content, field, MAX_PARTS)
    return [_part(part, f"{field}[{number}]", builder) for number, part in enumerate(listed)]


def _part(part: Any, field: str, builder: RowBuilder) -> ContentPart:
    part = read_object(part, field, _PART_FORM)
    if "text" in part:
        return TextPart(read_text(part["text"], f"{field}.text").strip())
    name, data = _get(part, "fileData")
    if data is None:
        raise BadRow("ROW_INVALID", field, f"{field} is neither a text nor a file", f"use {_PART_FORM}")
    data = read_object(data, f"{field}.{name}", _PART_FORM)
    of_type, mime_type = _get(data, "mimeType")
    if isinstance(mime_type, str) and not mime_type.startswith("video/"):
        what = f"{field}.{name} is of the type {shown(mime_type, 40)!r}; samples are about clips only"
        raise BadRow("MEDIA_UNSUPPORTED", f"{field}.{name}.{of_type}", what, "remove the row, or show a clip")
    of_uri, uri = _get(data, "fileUri")
    return builder.clip_in_bucket(uri, f"{field}.{name}.{of_uri}", *_limits(part, field))


def _limits(part: Mapping[str, Any], field: str) -> tuple[dict[str, Any], str]:
    name, metadata = _get(part, "videoMetadata")
    field = f"{field}.{name}"
    if metadata is None:
        return {}, field
    metadata = read_object(metadata, field, '{"startOffset": "1.5s", "endOffset": "4s"}')
    limits = {"fps": metadata.get("fps")}
    for key, name in (("start", "startOffset"), ("end", "endOffset")):
        name, offset = _get(metadata, name)
        limits[key] = None if offset is None else _seconds(offset, f"{field}.{name}")
    return limits, field


def _seconds(value: Any, field: str) -> float:
    """Returns a duration as JSON writes a `google.protobuf.Duration`: seconds with an `s` behind them."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        what = f"{field} is {shown(value, 40)!r}, not a duration"
        raise BadRow("ROW_INVALID", field, what, 'write seconds with an s behind them: "1.5s"')
    return float(found[1])


def _get(row: Mapping[str, Any], name: str) -> tuple[str, Any]:
    """Returns a value and the name it stands under: `fileUri` or `file_uri`."""
    snake = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
    return (snake, row[snake]) if snake in row and name not in row else (name, row.get(name))


GEMINI = Format(
    AnnotationFormat.GEMINI,
    shape="contents of role and parts",
    fits=_fits,
    read=_read,
)
