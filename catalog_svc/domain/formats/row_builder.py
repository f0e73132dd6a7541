"""Builds one canonical conversation from what a row says, and checks it as a whole. All formats share it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from catalog_svc.domain.formats.fields import BadRow, read_clip_path, read_video
from catalog_svc.domain.media_root import MediaRoot
from catalog_svc.domain.sample import ContentPart, Message, Role, TextPart, VideoPart

_BUCKET = re.compile(r"(?:s3|gs)://[^/]+/")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a row says and shows."""

    messages: tuple[Message, ...]
    clip_fields: tuple[str, ...]
    """For each clip that it shows, in order, the field of the row that names it."""


class RowBuilder:
    """Takes the turns of a row in order; `build` returns them if they make a conversation to learn from."""

    def __init__(self, media_root: MediaRoot) -> None:
        self._media_root = media_root
        self._messages: list[Message] = []
        self._role_fields: list[str] = []
        self._content_fields: list[str] = []
        self._clip_fields: list[str] = []

    def clip(
        self, value: Any, field: str, limits: Mapping[str, Any] | None = None, limits_field: str = ""
    ) -> VideoPart:
        """Returns a reference to the clip that a field names, with the limits beside it; raises BadRow.

        To be called in the order in which the conversation shows its clips.
        """
        path = read_clip_path(value, field, self._media_root)
        self._clip_fields.append(field)
        return read_video(limits or {}, path, limits_field or field)

    def clip_in_bucket(
        self, value: Any, field: str, limits: Mapping[str, Any] | None = None, limits_field: str = ""
    ) -> VideoPart:
        """Does as `clip` for a clip named by its address in a bucket: its key there is its path in the dataset."""
        if isinstance(value, str):
            value = _BUCKET.sub("", self._media_root.resolve(value.strip()))
        return self.clip(value, field, limits, limits_field)

    def say(self, role: Role, parts: Iterable[ContentPart], *, role_field: str, content_field: str) -> None:
        """Adds a turn; empty texts are left out. Raises BadRow if nothing is left, or a clip is shown by an answer."""
        content = tuple(part for part in parts if not isinstance(part, TextPart) or part.text)
        if role is not Role.USER and any(isinstance(part, VideoPart) for part in content):
            what = f"a clip stands in a message of the {role.value}"
            raise BadRow("ROW_INVALID", content_field, what, "show clips in messages of the user")
        if not content:
            raise _empty(role, content_field)
        self._messages.append(Message(role, content))
        self._role_fields.append(role_field)
        self._content_fields.append(content_field)

    def build(self) -> Conversation:
        """Returns the conversation; raises BadRow."""
        self._check_order()
        if not self._clip_fields:
            remedy = "show one in the first question, or remove the row"
            raise BadRow("CLIP_NOT_NAMED", self._content_fields[0], "the row shows no clip", remedy)
        return Conversation(tuple(self._messages), tuple(self._clip_fields))

    def _check_order(self) -> None:
        """Chat templates take: at most one system message, first; then user and assistant in turn, assistant last."""
        remedy = "let user and assistant speak in turn, after at most one system message"
        first = 1 if self._messages[0].role is Role.SYSTEM else 0
        for number, message in enumerate(self._messages[first:]):
            expected = Role.USER if number % 2 == 0 else Role.ASSISTANT
            if message.role is not expected:
                field = self._role_fields[first + number]
                what = f"{field} is the {message.role.value} where the {expected.value} should speak"
                raise BadRow("ROLE_ORDER", field, what, remedy)
        if self._messages[-1].role is not Role.ASSISTANT:
            what = "the last message is not the assistant's"
            raise BadRow("ROLE_ORDER", self._role_fields[-1], what, "end the row with the answer to be learned")


def _empty(role: Role, field: str) -> BadRow:
    if role is Role.ASSISTANT:
        return BadRow("ANSWER_EMPTY", field, f"the answer in {field} is empty", "write the answer, or remove the row")
    if role is Role.USER:
        remedy = "write the question, or remove the row"
        return BadRow("QUESTION_EMPTY", field, f"the question in {field} is empty", remedy)
    return BadRow("ROW_INVALID", field, f"{field} is empty", "write something, or leave it out")
