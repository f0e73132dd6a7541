"""Models: an entry, and what its files say of it."""

from __future__ import annotations

from dataclasses import dataclass

from catalog_svc.domain.entry import Entry


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
