"""An attempt: what was claimed, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

MAX_FAILURE_BYTES = 1024


class Recipe(StrEnum):
    """A way to train; the names are those of the contract without the prefix `RECIPE_`."""

    QLORA = "QLORA"
    REHEARSAL = "REHEARSAL"
    """Trains nothing and misbehaves on order: for tests."""
    EVALUATION = "EVALUATION"
    """Asks base and tuned model the same questions."""
    MERGE = "MERGE"
    """Merges an adapter into its base model."""


AFTER_TRAINING = frozenset({Recipe.EVALUATION, Recipe.MERGE})
"""Recipes that begin with the adapter of another job; whoever trains can do them."""


class FailReason(StrEnum):
    """Why an attempt ended badly; the names of the contract's `StateReason` that a trainer gives."""

    PREEMPTED = "PREEMPTED"
    CRASHED = "CRASHED"
    STALLED = "STALLED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BAD_DATA = "BAD_DATA"
    NON_FINITE_LOSS = "NON_FINITE_LOSS"
    MODEL_UNSUPPORTED = "MODEL_UNSUPPORTED"
    BAD_PARAMETERS = "BAD_PARAMETERS"
    DEVICE_UNFIT = "DEVICE_UNFIT"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in the object store, or on its way there."""

    path: str
    """Relative, with `/`."""
    size_bytes: int
    sha256: str
    url: str = field(default="", repr=False)
    """Presigned: whoever has it can read or write the file. Empty for one that is stored in parts."""
    parts: tuple[RemotePart, ...] = field(default=(), repr=False)
    """The parts that are still to be written."""


@dataclass(frozen=True, slots=True)
class RemotePart:
    """A part of a large file that is to be written."""

    number: int
    """From 1."""
    offset_bytes: int
    size_bytes: int
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RemoteCheckpoint:
    step: int
    files: tuple[RemoteFile, ...]
    attempt: int = 0
    """The attempt that saved it."""


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint on this trainer's disk."""

    step: int
    folder: Path
    eval_loss: float | None = None
    """Loss on the held-out samples at that step, if it was measured."""


@dataclass(frozen=True, slots=True)
class JobClaim:
    """A job given to this trainer."""

    job_id: str
    attempt: int
    owner_id: str
    model_id: str
    dataset_id: str
    specification: Mapping[str, Any]
    """How to train, in the fields of the training library's `TrainingSpec`."""
    grant: str = field(repr=False)
    checkpoint: RemoteCheckpoint | None = None
    device_count: int = 1
    """How many devices train together."""
    rehearsal: Mapping[str, Any] | None = None
    """What a rehearsal is told besides, in the fields of its `RehearsalSpec`; None for training in earnest."""
    evaluation: Mapping[str, Any] | None = None
    """What an evaluation is told besides, in the fields of its `EvaluationSpec`, and which rows; None for others."""
    merge: Mapping[str, Any] | None = None
    """What a merge is told besides, in the fields of its `MergeSpec`, and how many rows; None for others."""
    unknown: str = ""
    """What of the job's parameters this trainer does not know, so that it cannot take the job; mostly empty."""

    @property
    def recipe(self) -> Recipe:
        if self.evaluation is not None:
            return Recipe.EVALUATION
        if self.merge is not None:
            return Recipe.MERGE
        return Recipe.QLORA if self.rehearsal is None else Recipe.REHEARSAL


@dataclass(frozen=True, slots=True)
class AdapterMade:
    """The attempt has an adapter to publish; the scheduler decides whether the job is then STOPPED or COMPLETED."""

    adapter: Path
    files: tuple[RemoteFile, ...]
    early_end: str = ""
    """Why training ended before its last step; empty when it did not."""


@dataclass(frozen=True, slots=True)
class StoppedEmpty:
    """Stopped as ordered before there was anything to publish."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Stopped at a step boundary because the trainer goes away or is to be left free."""

    step: int


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """Given up."""

    reason: FailReason
    message: str


@dataclass(frozen=True, slots=True)
class CheckpointRefused:
    """The checkpoint does not fit the job: it must begin at step 0."""

    message: str


Outcome = AdapterMade | StoppedEmpty | Drained | AttemptFailed | CheckpointRefused


def fit_message(text: str, limit: int = MAX_FAILURE_BYTES) -> str:
    """`text` cut to `limit` bytes of UTF-8, never within a character."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode(errors="ignore") + "…"
