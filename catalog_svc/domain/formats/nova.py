"""Amazon Nova on Bedrock.

    {"schemaVersion": "bedrock-conversation-2024", "system": [{"text": "S"}],
     "messages": [{"role": "user", "content": [{"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://b/v.mp4"}}}},
                                               {"text": "Q"}]},
                  {"role": "assistant", "content": [{"text": "A"}]}]}

A clip is looked for under its key, `v.mp4`, as if the dataset's folder were the bucket.
"""

from __future__ import annotations

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
from catalog_svc.domain.sample import AnnotationFormat, ContentPart, Role, TextPart

_ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT}
_PART_FORM = '{"text": …} or {"video": {"format": "mp4", "source": {"s3Location": {"uri": …}}}}'


def _fits(row: RowValue) -> bool:
    return "schemaVersion" in row and "messages" in row


def _read(row: RowValue, builder: RowBuilder) -> None:
    if row.get("system"):
        parts = _parts(row["system"], "system", builder)
        builder.say(Role.SYSTEM, parts, role_field="system", content_field="system")
    for number, turn in enumerate(read_list(row.get("messages"), "messages", MAX_MESSAGES)):
        field = f"messages[{number}]"
        turn = read_object(turn, field, '{"role": …, "content": […]}')
        role = read_role(turn.get("role"), f"{field}.role", _ROLES, is_mappable=False)
        parts = _parts(turn.get("content"), f"{field}.content", builder)
        builder.say(role, parts, role_field=f"{field}.role", content_field=f"{field}.content")


def _parts(content: Any, field: str, builder: RowBuilder) -> list[ContentPart]:
    listed = read_list(content, field, MAX_PARTS)
    return [_part(part, f"{field}[{number}]", builder) for number, part in enumerate(listed)]


def _part(part: Any, field: str, builder: RowBuilder) -> ContentPart:
    part = read_object(part, field, _PART_FORM)
    if "text" in part:
        return TextPart(read_text(part["text"], f"{field}.text").strip())
    if "video" not in part:
        what = f"{field} is neither a text nor a video"
        raise BadRow("MEDIA_UNSUPPORTED" if "image" in part else "ROW_INVALID", field, what, f"use {_PART_FORM}")
    value: Any = part
    for name in ("video", "source", "s3Location", "uri"):
        field = f"{field}.{name}"
        value = value.get(name) if isinstance(value, dict) else None
    return builder.clip_in_bucket(value, field)


NOVA = Format(
    AnnotationFormat.NOVA,
    shape="schemaVersion, and messages with parts of text and video",
    fits=_fits,
    read=_read,
)
