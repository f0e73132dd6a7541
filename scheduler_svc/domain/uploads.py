"""Large files on their way to the object store, in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler_svc.domain.files import StoredFile

MAX_PARTS = 10_000
"""What an object store takes in one upload."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part of a file."""

    number: int
    """From 1."""
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that the scheduler has begun. Its parts keep their size whatever the settings become."""

    upload_id: str
    """The object store's name for it."""
    size_bytes: int
    sha256: str
    part_bytes: int

    @property
    def parts(self) -> Sequence[FilePart]:
        """All parts, in order."""
        offsets = range(0, self.size_bytes, self.part_bytes)
        return [
            FilePart(number, offset, min(self.part_bytes, self.size_bytes - offset))
            for number, offset in enumerate(offsets, start=1)
        ]

    def missing(self, arrived: Mapping[int, int]) -> Sequence[FilePart]:
        """Returns the parts that are not among those which arrived, given as sizes by number."""
        return [part for part in self.parts if arrived.get(part.number) != part.size_bytes]

    def is_of(self, file: StoredFile) -> bool:
        """Tells whether it is for these very bytes."""
        return (self.size_bytes, self.sha256) == (file.size_bytes, file.sha256)


def part_bytes_for(size_bytes: int, wanted: int) -> int:
    """Returns how large the parts of a file are: as wanted, unless there would be more than a store takes."""
    return max(wanted, -(-size_bytes // MAX_PARTS))
