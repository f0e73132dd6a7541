"""Catalog entries: what datasets and models have in common, and the life cycle they share."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import NewType

from catalog_svc.domain.errors import EtagMismatch, InvalidField, StateConflict
from catalog_svc.domain.plain_text import holds_control, is_blank

EntryId = NewType("EntryId", str)

MAX_NAME_LENGTH = 100
MAX_DESCRIPTION_LENGTH = 2000


class EntryKind(enum.StrEnum):
    """What an entry is."""

    DATASET = "DATASET"
    MODEL = "MODEL"

    @property
    def noun(self) -> str:
        """The word for messages to people."""
        return self.value.lower()

    @property
    def id_prefix(self) -> str:
        """What ids of this kind start with."""
        return "ds" if self is EntryKind.DATASET else "mdl"


class EntryState(enum.StrEnum):
    """Where in its life an entry is."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    READY = "READY"
    ERROR = "ERROR"


class Visibility(enum.StrEnum):
    """Who may read an entry; only its owner may ever change it."""

    PRIVATE = "PRIVATE"
    SHARED = "SHARED"


class Action(enum.StrEnum):
    """What moves an entry from state to state."""

    CHANGE_FILES = "CHANGE_FILES"
    VALIDATE = "VALIDATE"
    PASS = "PASS"  # noqa: S105  # a verdict, no password
    FAIL = "FAIL"
    QUARANTINE = "QUARANTINE"
    MAKE_VERSION = "MAKE_VERSION"


TRANSITIONS: Mapping[tuple[EntryState, Action], EntryState] = MappingProxyType(
    {
        (EntryState.PENDING, Action.CHANGE_FILES): EntryState.PENDING,
        (EntryState.ERROR, Action.CHANGE_FILES): EntryState.PENDING,
        (EntryState.PENDING, Action.VALIDATE): EntryState.PROCESSING,
        (EntryState.ERROR, Action.VALIDATE): EntryState.PROCESSING,
        (EntryState.ERROR, Action.QUARANTINE): EntryState.PROCESSING,
        (EntryState.PROCESSING, Action.PASS): EntryState.READY,
        (EntryState.PROCESSING, Action.FAIL): EntryState.ERROR,
        (EntryState.READY, Action.MAKE_VERSION): EntryState.READY,
    }
)
"""The whole life cycle. A READY entry never changes its content, so nothing leads out of READY."""

_WAY_OUT = "a READY dataset never changes; make a new version of it (CreateDatasetVersion) and change that one"

END_STATES = frozenset({EntryState.READY, EntryState.ERROR})
"""Where a watch of an entry ends."""


def next_state(kind: EntryKind, state: EntryState, action: Action) -> EntryState:
    """Returns the state after `action`.

    Raises:
        StateConflict: the action is not possible in this state; it names the states in which it is.
    """
    after = TRANSITIONS.get((state, action))
    if after is None:
        allowed = tuple(sorted(before.value for before, possible in TRANSITIONS if possible is action))
        is_final = kind is EntryKind.DATASET and state is EntryState.READY and action is Action.CHANGE_FILES
        raise StateConflict(kind.value, state.value, allowed, _WAY_OUT if is_final else "")
    return after


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who wants to read: a signed-in user, or the holder of a grant for exactly one entry of this kind."""

    user_id: str | None = None
    granted_id: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A dataset or a model, without what validation found."""

    id: EntryId
    kind: EntryKind
    owner_id: str
    name: str
    description: str
    visibility: Visibility
    state: EntryState
    revision: int
    """Counts the changes, progress of a validation excepted."""
    file_count: int
    size_bytes: int
    create_time: datetime
    update_time: datetime
    version: int
    """Counts from 1 within the lineage; models have one only."""
    lineage_id: EntryId
    """The first version."""
    base_id: EntryId | None
    """The version that it was made from."""
    delete_time: datetime | None

    @property
    def etag(self) -> str:
        """Opaque; differs whenever the revision does."""
        return hashlib.sha256(f"{self.id}:{self.revision}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class EntryDraft:
    """What a user says of a new entry."""

    kind: EntryKind
    name: str
    description: str
    visibility: Visibility

    def digest(self) -> str:
        """Identifies the draft, so that a repeated request is told from one with another body."""
        parts = (self.kind, self.name, self.description, self.visibility)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class EntryChange:
    """New values of an entry; None leaves the value as it is."""

    name: str | None = None
    description: str | None = None
    visibility: Visibility | None = None
    etag: str = ""
    """When not empty, the change is made only to the entry with this etag."""


def check_draft(draft: EntryDraft) -> None:
    """Raises InvalidField for a name or description that cannot be kept."""
    _check_name("name", draft.name)
    _check_text("description", draft.description, MAX_DESCRIPTION_LENGTH)


def check_change(entry: Entry, change: EntryChange) -> None:
    """Raises EtagMismatch or InvalidField when `change` must not be made to `entry`."""
    if change.etag and change.etag != entry.etag:
        raise EtagMismatch(entry.kind.value)
    field = entry.kind.noun
    if change.name is not None:
        _check_name(f"{field}.name", change.name)
    if change.description is not None:
        _check_text(f"{field}.description", change.description, MAX_DESCRIPTION_LENGTH)


def _check_name(field: str, name: str) -> None:
    if is_blank(name):
        raise InvalidField(field, f"must not be blank; give a name of 1 to {MAX_NAME_LENGTH} characters")
    if name != name.strip():
        raise InvalidField(field, "must not start or end with a space; remove it")
    _check_text(field, name, MAX_NAME_LENGTH)
    if holds_control(name):
        raise InvalidField(field, "holds a control character; remove it")


def _check_text(field: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidField(field, f"has {len(text)} characters; at most {most} are kept")
    if "\0" in text:
        raise InvalidField(field, "holds a NUL character; remove it")
