"""Uploads: a file on its way into an entry, and the parts that it is sent in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NewType, TypeVar

from catalog_svc.domain.content import ContentPlace
from catalog_svc.domain.entry import EntryId, EntryKind

UploadId = NewType("UploadId", str)
_Item = TypeVar("_Item")

PART_BYTES = 8 * 1024 * 1024
MAX_MODEL_FILES = 2_000
"""Files of one model: its snapshot is one message."""
MAX_PARTS = 4_000
"""Larger files get larger parts. S3 takes 10,000, but the answer that names them all has to fit into one message."""
MAX_BATCH_PARTS = 1_024
"""Of the files of one batch together: their addresses are made while the call lasts, and fit into one message."""


LATE_LOOK = timedelta(minutes=35)
"""After so long an address writes nothing any more: it ends after 15 minutes, a PUT that began before that after 15
more (the edge sees to it), and the last five are for clocks that differ."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """Which file is to come."""

    parent_id: EntryId
    path: str
    size_bytes: int
    sha256: str

    @property
    def parent_kind(self) -> EntryKind:
        return EntryKind.DATASET if self.parent_id.startswith("ds_") else EntryKind.MODEL


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in place."""

    path: str
    size_bytes: int
    sha256: str
    create_time: datetime
    place: ContentPlace


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way."""

    id: UploadId
    owner_id: str
    header: FileHeader
    place: ContentPlace
    """Where its bytes lie once they are verified."""
    multipart_id: str | None
    """S3's name for the multipart upload; None for a file that fits into one PUT."""
    stored: StoredFile | None = None
    """The file in place, once the upload is complete."""
    is_direct: bool = False
    """Its bytes are sent straight to their place, and the store verifies them as they come."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the file, sent by one PUT."""

    number: int
    offset_bytes: int
    size_bytes: int


def plan_parts(size_bytes: int) -> tuple[Part, ...]:
    """Returns the parts of a file of that size: all but the last equally long; an empty file is one empty part."""
    length = part_length(size_bytes)
    offsets = _offsets(size_bytes)
    return tuple(Part(n, offset, min(length, size_bytes - offset)) for n, offset in enumerate(offsets, start=1))


def part_count(size_bytes: int) -> int:
    """Returns the number of parts of a file of that size."""
    return len(_offsets(size_bytes))


def part_length(size_bytes: int) -> int:
    """Returns the length of all parts but the last: 8 MiB, or as many times that as MAX_PARTS demands."""
    return PART_BYTES * max(1, -(-size_bytes // (PART_BYTES * MAX_PARTS)))


def by_parent(items: Iterable[_Item], header_of: Callable[[_Item], FileHeader]) -> list[list[_Item]]:
    """Returns what goes into one entry together, each in order."""
    groups: dict[EntryId, list[_Item]] = {}
    for item in items:
        groups.setdefault(header_of(item).parent_id, []).append(item)
    return list(groups.values())


def _offsets(size_bytes: int) -> range:
    return range(0, max(size_bytes, 1), part_length(size_bytes))
