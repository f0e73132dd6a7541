"""Samples in canonical form: conversations about clips."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

TRAIN_SPLIT = "train"
EVAL_SPLITS = frozenset({"eval", "validation", "val"})
"""Names of the one split that training measures its loss on."""


class AnnotationFormat(enum.StrEnum):
    """How an annotation file was understood."""

    CONTENT_PARTS = "CONTENT_PARTS"
    COLUMNS = "COLUMNS"
    SHAREGPT = "SHAREGPT"
    OPENAI_MESSAGES = "OPENAI_MESSAGES"
    MS_SWIFT = "MS_SWIFT"
    LLAVA = "LLAVA"
    NOVA = "NOVA"
    GEMINI = "GEMINI"
    TEXT_FILES = "TEXT_FILES"


class Role(enum.StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Words."""

    text: str


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A clip of the dataset, or a stretch of one; None: as the job says."""

    path: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    fps: float | None = None
    max_frames: int | None = None
    max_pixels: int | None = None


ContentPart = TextPart | VideoPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Role
    content: tuple[ContentPart, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One example."""

    sample_id: str
    split: str
    messages: tuple[Message, ...]
    tags: tuple[str, ...] = ()
    """What its owner calls the kind of thing that it asks."""

    def videos(self) -> tuple[VideoPart, ...]:
        """Returns the clips it shows, in order."""
        return tuple(part for message in self.messages for part in message.content if isinstance(part, VideoPart))


@dataclass(frozen=True, slots=True)
class SampleText:
    """A sample as it is stored: its turns are one JSON text."""

    sample_id: str
    split: str
    messages: str
    """`canonical_json(messages_to_json(…))`."""
    tags: tuple[str, ...] = ()

    def row_text(self) -> str:
        """Returns the canonical JSON text of the whole sample."""
        # Without tags it is the text that it was before there were any: fingerprints stay.
        tags = f',"tags":{canonical_json(list(self.tags))}' if self.tags else ""
        return (
            f'{{"messages":{self.messages},"sample_id":{encode_basestring(self.sample_id)},'
            f'"split":{encode_basestring(self.split)}{tags}}}'
        )


def content_id(messages: str) -> str:
    """Returns an id that depends on what is said and shown only, so that the same row has it in every upload.

    Args:
        messages: Their canonical JSON text.
    """
    return hashlib.sha256(messages.encode()).hexdigest()[:24]


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """Returns the one JSON text of a value: sorted keys, no spaces, UTF-8 characters as they are."""
    return _CANONICAL.encode(value)


def messages_to_json(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Returns the turns as JSON values, without what is absent."""
    return [
        {"role": message.role.value, "content": [_part_to_json(part) for part in message.content]}
        for message in messages
    ]


def messages_from_json(value: list[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Inverts `messages_to_json`."""
    return tuple(
        Message(Role(turn["role"]), tuple(_part_from_json(part) for part in turn["content"])) for turn in value
    )


def _part_to_json(part: ContentPart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    values = {name: getattr(part, name) for name in VideoPart.__slots__}
    return {"video": {name: value for name, value in values.items() if value is not None}}


def _part_from_json(value: Mapping[str, Any]) -> ContentPart:
    return TextPart(value["text"]) if "text" in value else VideoPart(**value["video"])
