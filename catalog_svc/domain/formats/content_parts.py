"""Conversations whose content is a list of typed parts: the form nearest to the canonical one.

    {"messages": [
      {"role": "user", "content": [{"type": "video", "path": "a.mp4", "fps": 2}, {"type": "text", "text": "Q"}]},
      {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]}

A clip is named by `path`, `video`, `url` or `video_url`; `start`, `end`, `fps`, `max_frames` (or `nframes`) and
`max_pixels` stand beside it.
"""

from __future__ import annotations

from typing import Any

from catalog_svc.domain.formats.fields import (
    MAX_MESSAGES,
    MAX_PARTS,
    BadRow,
    check_media,
    read_list,
    read_object,
    read_role,
    read_text,
)
from catalog_svc.domain.formats.format import Format, Layout, RowValue, Writer
from catalog_svc.domain.formats.row_builder import RowBuilder
from catalog_svc.domain.issue import shown
from catalog_svc.domain.sample import AnnotationFormat, ContentPart, Role, Sample, TextPart, VideoPart

_CLIP_KEYS = ("path", "video", "url", "video_url")
_ROLES = {role.value: role for role in Role}
_LIMITS = {
    "start": "start_seconds",
    "end": "end_seconds",
    "fps": "fps",
    "max_frames": "max_frames",
    "max_pixels": "max_pixels",
}


def _fits(row: RowValue) -> bool:
    turns = row.get("messages")
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and isinstance(turn.get("content"), list) for turn in turns
    )


def _read(row: RowValue, builder: RowBuilder) -> None:
    check_media(row)
    for number, turn in enumerate(read_list(row.get("messages"), "messages", MAX_MESSAGES)):
        field = f"messages[{number}]"
        turn = read_object(turn, field, '{"role": …, "content": […]}')
        role = read_role(turn.get("role"), f"{field}.role", _ROLES, is_mappable=False)
        parts = _parts(turn.get("content"), f"{field}.content", builder)
        builder.say(role, parts, role_field=f"{field}.role", content_field=f"{field}.content")


def _parts(content: Any, field: str, builder: RowBuilder) -> list[ContentPart]:
    if isinstance(content, str):
        return [TextPart(read_text(content, field).strip())]
    listed = read_list(content, field, MAX_PARTS)
    return [_part(part, f"{field}[{number}]", builder) for number, part in enumerate(listed)]


def _part(part: Any, field: str, builder: RowBuilder) -> ContentPart:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return TextPart(read_text(part.get("text"), f"{field}.text").strip())
    if kind in ("video", "video_url"):
        return _video(part, field, builder)
    what = f"{field} is of the type {shown(kind, 40)!r}" if kind else f"{field} names no type"
    raise BadRow("ROW_INVALID", field, what, 'use {"type": "text", "text": …} or {"type": "video", "path": …}')


def _video(part: dict[str, Any], field: str, builder: RowBuilder) -> VideoPart:
    keys = [key for key in _CLIP_KEYS if part.get(key) is not None]
    if len(keys) != 1:
        what = f"{field} names {'no clip' if not keys else 'its clip ' + str(len(keys)) + ' times'}"
        raise BadRow("ROW_INVALID", field, what, "give the clip once, as path")
    value, clip_field = part[keys[0]], f"{field}.{keys[0]}"
    if isinstance(value, dict):
        value, clip_field = value.get("url"), f"{clip_field}.url"
    return builder.clip(value, clip_field, part, field)


def _write(sample: Sample) -> dict[str, Any]:
    return {
        "messages": [
            {"role": message.role.value, "content": [_part_to_row(part) for part in message.content]}
            for message in sample.messages
        ]
    }


def _part_to_row(part: ContentPart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    limits = {key: getattr(part, name) for key, name in _LIMITS.items()}
    return {"type": "video", "path": part.path, **{key: limit for key, limit in limits.items() if limit is not None}}


CONTENT_PARTS = Format(
    AnnotationFormat.CONTENT_PARTS,
    shape='messages with content parts: {"type": "video", "path": …} and {"type": "text", "text": …}',
    fits=_fits,
    read=_read,
    writer=Writer(Layout.JSON_LINES, _write),
)
