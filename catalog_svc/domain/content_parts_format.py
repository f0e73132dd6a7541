"""Conversations whose content is a list of typed parts.

`{"messages": [{"role": "user", "content": [{"type": "video", "path": …}, {"type": "text", "text": …}]}, …]}`
"""

from __future__ import annotations

from typing import Any

from catalog_svc.domain.issue import shown
from catalog_svc.domain.row_reading import BadRow, read_clip_path, read_text, read_video
from catalog_svc.domain.sample import ContentPart, Message, Role, TextPart, VideoPart

MAX_MESSAGES = 200
MAX_PARTS = 200
_CLIP_KEYS = ("path", "url", "video")
_FOREIGN_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system"}


def is_content_parts_row(value: dict[str, Any]) -> bool:
    """Tells whether a row has this form."""
    return "messages" in value


def read_content_parts_row(value: dict[str, Any]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Returns the turns, and the field that names each clip; raises BadRow."""
    turns = _list(value.get("messages"), "messages", MAX_MESSAGES)
    clip_fields: list[str] = []
    messages = tuple(_message(turn, f"messages[{number}]", clip_fields) for number, turn in enumerate(turns))
    _check_order(messages)
    if not clip_fields:
        remedy = 'add {"type": "video", "path": …} to the first user message'
        raise BadRow("ROW_INVALID", "messages", "the row shows no clip", remedy)
    return messages, tuple(clip_fields)


def _message(turn: Any, field: str, clip_fields: list[str]) -> Message:
    if not isinstance(turn, dict):
        raise BadRow("ROW_INVALID", field, f"{field} is not an object", 'write {"role": …, "content": […]}')
    role = _role(turn.get("role"), f"{field}.role")
    content = turn.get("content")
    if isinstance(content, str):
        parts: tuple[ContentPart, ...] = (TextPart(read_text(content, f"{field}.content").strip()),)
    else:
        listed = _list(content, f"{field}.content", MAX_PARTS)
        parts = tuple(_part(part, f"{field}.content[{number}]", clip_fields) for number, part in enumerate(listed))
    _check_content(role, parts, field)
    return Message(role, tuple(part for part in parts if not isinstance(part, TextPart) or part.text))


def _role(value: Any, field: str) -> Role:
    if isinstance(value, str) and value in tuple(Role):
        return Role(value)
    known = _FOREIGN_ROLES.get(value.lower()) if isinstance(value, str) else None
    remedy = f"write {known}" if known else "use system, user or assistant"
    raise BadRow("ROLE_UNKNOWN", field, f"{field} is {shown(value, 40)!r}", remedy)


def _part(part: Any, field: str, clip_fields: list[str]) -> ContentPart:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return TextPart(read_text(part.get("text"), f"{field}.text").strip())
    if kind == "video":
        return _video(part, field, clip_fields)
    what = f"{field} is of the type {shown(kind, 40)!r}" if kind else f"{field} names no type"
    raise BadRow("ROW_INVALID", field, what, 'use {"type": "text", "text": …} or {"type": "video", "path": …}')


def _video(part: dict[str, Any], field: str, clip_fields: list[str]) -> VideoPart:
    keys = [key for key in _CLIP_KEYS if part.get(key) is not None]
    if len(keys) != 1:
        what = f"{field} names {'no clip' if not keys else 'its clip ' + str(len(keys)) + ' times'}"
        raise BadRow("ROW_INVALID", field, what, "give the clip once, as path")
    clip_field = f"{field}.{keys[0]}"
    path = read_clip_path(part[keys[0]], clip_field)
    clip_fields.append(clip_field)
    return read_video(part, path, field)


def _check_content(role: Role, parts: tuple[ContentPart, ...], field: str) -> None:
    has_text = any(isinstance(part, TextPart) and part.text for part in parts)
    has_video = any(isinstance(part, VideoPart) for part in parts)
    if role is Role.ASSISTANT and not has_text:
        remedy = "write the answer, or remove the row"
        raise BadRow("ANSWER_EMPTY", f"{field}.content", "the assistant's answer is empty", remedy)
    if role is not Role.USER and has_video:
        what = f"a clip stands in a message of the {role.value}"
        raise BadRow("ROW_INVALID", f"{field}.content", what, "show clips in messages of the user")
    if not has_text and not has_video:
        raise BadRow(
            "ROW_INVALID", f"{field}.content", f"{field}.content is empty", "write something, or remove the message"
        )


def _check_order(messages: tuple[Message, ...]) -> None:
    """Chat templates take: at most one system message, first; then user and assistant in turn, the assistant last."""
    first = 1 if messages[0].role is Role.SYSTEM else 0
    for number, message in enumerate(messages[first:]):
        expected = Role.USER if number % 2 == 0 else Role.ASSISTANT
        if message.role is not expected:
            field = f"messages[{first + number}].role"
            what = f"{field} is {message.role.value} where {expected.value} should speak"
            raise BadRow(
                "ROLE_ORDER", field, what, "let user and assistant speak in turn, after at most one system message"
            )
    if messages[-1].role is not Role.ASSISTANT:
        field = f"messages[{len(messages) - 1}].role"
        raise BadRow(
            "ROLE_ORDER", field, "the last message is not the assistant's", "end the row with the answer to be learned"
        )


def _list(value: Any, field: str, most: int) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise BadRow("ROW_INVALID", field, f"{field} is not a list with something in it", "keep to the documented form")
    if len(value) > most:
        raise BadRow(
            "ROW_INVALID", field, f"{field} has {len(value)} entries, at most {most} are read", "split the row"
        )
    return value
