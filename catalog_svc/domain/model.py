"""Models: an entry, and what its files say of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from catalog_svc.domain.chat_template import ChatTemplateFacts
from catalog_svc.domain.entry import Entry
from catalog_svc.domain.frame_rule import FrameRule
from catalog_svc.domain.model_parts import ModelMemory, ModelPart


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is read from a model's configuration and safetensors headers."""

    model_type: str
    architecture: str
    parameter_count: int
    weight_bytes: int
    size_bytes: int
    context_length: int
    """Tokens; 0: config.json does not say."""
    max_frames: int
    """Of one clip; 0: the video processor sets no limit."""
    has_video_processor: bool
    fingerprint: str
    parts: tuple[ModelPart, ...] = ()
    memory: ModelMemory = field(default_factory=ModelMemory)
    chat_template: ChatTemplateFacts = field(default_factory=ChatTemplateFacts)
    frame_rule: FrameRule | None = None
    """None where it is not known how its processor turns frames into tokens."""
    vocabulary_size: int = 0


class ForwardState(enum.StrEnum):
    """Whether one forward step of the model was tried."""

    NOT_RUN = "NOT_RUN"
    PASSED = "PASSED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class ForwardCheck:
    """What one forward step on a tiny clip came to."""

    state: ForwardState = ForwardState.NOT_RUN
    message: str = ""
    """Why it was skipped, or how it failed."""


@dataclass(frozen=True, slots=True)
class ModelIssue:
    """One thing that is wrong with a model's files."""

    reason: str
    message: str
    remedy: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A base model."""

    entry: Entry
    facts: ModelFacts | None = None
    issues: tuple[ModelIssue, ...] = ()
    forward: ForwardCheck = field(default_factory=ForwardCheck)


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """What a validation comes to: facts of a sound model, or what is wrong."""

    facts: ModelFacts | None
    issues: tuple[ModelIssue, ...] = ()
    forward: ForwardCheck = field(default_factory=ForwardCheck)
