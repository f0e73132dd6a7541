"""Questions about clips, and the pieces of their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Responder(StrEnum):
    BASE = "BASE"
    TUNED = "TUNED"


@dataclass(frozen=True, slots=True)
class DatasetClip:
    dataset_id: str
    path: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a user asks."""

    client: str
    """The user's id: users take turns."""
    token: str = field(repr=False)
    """The user's own token: what they may not read, they cannot ask about."""
    job_id: str
    clip: DatasetClip | bytes
    prompt: str
    responders: tuple[Responder, ...]
    """Who answers, in this order."""
    max_new_tokens: int
    temperature: float


@dataclass(frozen=True, slots=True)
class AnswerText:
    """The next text of an answer."""

    responder: Responder
    text: str


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The end of one responder's answer."""

    responder: Responder
    text: str
    """All of it."""
    prompt_tokens: int
    new_tokens: int
    is_truncated: bool


AnswerPiece = AnswerText | AnswerEnd


@dataclass(frozen=True, slots=True)
class Asking:
    """A question as the inference process gets it; paths are on this machine."""

    clip: str
    adapter: str | None
    prompt: str
    sampling: Mapping[str, Any]
    max_new_tokens: int
    temperature: float
    beside_base: bool = False
    """The base model answers, too, one token of each in turn."""
