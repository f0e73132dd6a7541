"""Conversations in which a tag such as `<video>` marks where the next of the row's clips is shown.

ShareGPT, OpenAI messages and LLaVA are all this, with other names for the same things; `ChatKeys` holds the names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
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
from catalog_svc.domain.formats.format import CannotHold, RowValue
from catalog_svc.domain.formats.row_builder import RowBuilder
from catalog_svc.domain.sample import ContentPart, Message, Role, Sample, TextPart, VideoPart

VIDEO_TAG = "<video>"


@dataclass(frozen=True, slots=True)
class ChatKeys:
    """What a format calls the parts of a tagged conversation."""

    turns: str
    """The list of turns."""
    role: str
    """In a turn: who speaks."""
    text: str
    """In a turn: what is said."""
    roles: Mapping[str, Role]
    """The names of those who speak; the first name of a role is the one that is written."""
    clips: str = "videos"
    """The clips, in the order of their tags: a list, or one path."""
    system: str = "system"
    """A system message beside the turns."""
    clip_tags: tuple[str, ...] = (VIDEO_TAG,)


def read_chat(row: RowValue, builder: RowBuilder, keys: ChatKeys) -> None:
    """Tells the turns of a row to the builder; raises BadRow."""
    clips = TaggedClips(row, keys.clips, keys.clip_tags, builder)
    if row.get(keys.system):
        say_system(row, keys.system, builder)
    for number, turn in enumerate(read_list(row.get(keys.turns), keys.turns, MAX_MESSAGES)):
        name = f"{keys.turns}[{number}]"
        turn = read_object(turn, name, f'{{"{keys.role}": …, "{keys.text}": …}}')
        role = read_role(turn.get(keys.role), f"{name}.{keys.role}", keys.roles, is_mappable=True)
        content_field = f"{name}.{keys.text}"
        parts = clips.split(role, turn.get(keys.text), content_field)
        builder.say(role, parts, role_field=f"{name}.{keys.role}", content_field=content_field)
    clips.check_all_shown()


def say_system(row: RowValue, name: str, builder: RowBuilder) -> None:
    """Tells a system message beside the turns to the builder; raises BadRow."""
    text = read_text(row[name], name).strip()
    builder.say(Role.SYSTEM, (TextPart(text),), role_field=name, content_field=name)


class TaggedClips:
    """The clips of a row, which the tags in its texts show one after another."""

    def __init__(self, row: RowValue, name: str, tags: tuple[str, ...], builder: RowBuilder) -> None:
        check_media(row)
        self._name = name
        self._clips = _named_clips(row, name)
        self._tag = _any_of(tags)
        self._written_tag = tags[0]
        self._builder = builder
        self._tag_count = 0

    def split(self, role: Role, value: Any, field: str) -> list[ContentPart]:
        """Returns a text as parts, with a clip for each tag; raises BadRow for a tag that the user does not say."""
        if role is not Role.USER or not isinstance(value, str):
            self._check_untagged(role, value, field)
            return [TextPart(read_text(value, field).strip())]
        first, *others = self._tag.split(value)
        parts: list[ContentPart] = [TextPart(read_text(first, field).strip())]
        for text in others:
            parts += [*self._next(), TextPart(read_text(text, field).strip())]
        return parts

    def show_rest(self) -> list[ContentPart]:
        """Returns the clips of a row whose texts have no tag at all."""
        self._tag_count = len(self._clips)
        return [self._builder.clip(*clip) for clip in self._clips]

    def check_all_shown(self) -> None:
        """Raises BadRow unless there were as many tags as clips."""
        tags, clips = self._tag_count, len(self._clips)
        if tags == clips:
            return
        what = f"tags {self._written_tag} in the texts: {tags}, clips in {self._name}: {clips}"
        remedy = (
            f"name {tags - clips} more in {self._name}, or remove a tag"
            if tags > clips
            else f"write {self._written_tag} in a question, once for each clip, where it is shown"
        )
        raise BadRow("TAG_COUNT", self._name, what, remedy)

    def _next(self) -> list[ContentPart]:
        self._tag_count += 1
        if self._tag_count > len(self._clips):
            return []  # told by check_all_shown, which knows all numbers
        return [self._builder.clip(*self._clips[self._tag_count - 1])]

    def _check_untagged(self, role: Role, value: Any, field: str) -> None:
        if isinstance(value, str) and (tag := self._tag.search(value)):
            speaker = "an answer" if role is Role.ASSISTANT else "the system message"
            what = f"the tag {tag[0]} stands in {speaker}"
            raise BadRow("TAG_IN_TEXT", field, what, "move the tag to the question about the clip")


@cache
def _any_of(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(tag) for tag in tags))


def _named_clips(row: RowValue, name: str) -> list[tuple[Any, str]]:
    """Returns the clips that a row lists, or the one that it names, each with its field."""
    values = row.get(name)
    if values is None or values in ("", []):
        return []
    if not isinstance(values, list):
        return [(values, name)]
    return [(value, f"{name}[{number}]") for number, value in enumerate(read_list(values, name, MAX_PARTS))]


def write_chat(sample: Sample, keys: ChatKeys) -> dict[str, Any]:
    """Returns a sample as a row; raises CannotHold."""
    names = {role: name for name, role in reversed(list(keys.roles.items()))}
    turns = [
        {keys.role: names[message.role], keys.text: tagged_text(message, f"messages[{number}].content")}
        for number, message in enumerate(sample.messages)
    ]
    return {keys.turns: turns, keys.clips: [video.path for video in sample.videos()]}


def tagged_text(message: Message, field: str) -> str:
    """Returns what is said, with a tag for each clip; raises CannotHold."""
    for number, (part, after) in enumerate(zip(message.content, (*message.content[1:], None), strict=True)):
        if isinstance(part, VideoPart) and part != VideoPart(part.path):
            raise CannotHold("limits beside a clip", f"{field}[{number}]")
        if isinstance(part, TextPart) and isinstance(after, TextPart):
            raise CannotHold("two texts side by side", f"{field}[{number + 1}]")
    return "".join(part.text if isinstance(part, TextPart) else VIDEO_TAG for part in message.content)
