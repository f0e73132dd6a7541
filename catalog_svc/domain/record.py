"""One row as it stands in an annotation file, and the end of reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from catalog_svc.domain.issue import Issue


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stands in the file."""

    number: int
    """Counts from 1, without a CSV's header and without blank lines."""
    value: dict[str, Any]
    prefix: str = ""
    """What the row's fields begin with: `[2].` for the third of a packed sample."""


class Unreadable(Exception):
    """The rest of the file cannot be read."""

    def __init__(self, found: Issue) -> None:
        super().__init__(found.message)
        self.issue = found
