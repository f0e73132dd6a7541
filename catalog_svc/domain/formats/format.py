"""What a format is: how to know its rows, read them, and write them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from catalog_svc.domain.formats.row_builder import RowBuilder
from catalog_svc.domain.sample import AnnotationFormat, Sample

RowValue = Mapping[str, Any]
"""One row as JSON values; of a CSV file, as texts."""


class Layout(enum.Enum):
    """How a file of rows is written."""

    JSON_ARRAY = ".json"
    JSON_LINES = ".jsonl"
    CSV = ".csv"


@dataclass(frozen=True, slots=True)
class Writer:
    """How samples become rows of a format."""

    layout: Layout
    write: Callable[[Sample], dict[str, Any]]
    """Returns the row without `split` and `sample_id`; raises CannotHold."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format of annotation files."""

    name: AnnotationFormat
    shape: str
    """The fields of its rows, for messages."""
    fits: Callable[[RowValue], bool]
    """Tells whether a row has this form, right or wrong in its details."""
    read: Callable[[RowValue, RowBuilder], None]
    """Tells a row's turns to the builder; raises BadRow."""
    writer: Writer | None = None
    """None where only reading is offered."""


class CannotHold(Exception):
    """A sample has something that a format has no place for."""

    def __init__(self, what: str, field: str) -> None:
        super().__init__(what)
        self.what = what
        self.field = field
        """Where in the canonical sample, such as `messages[0].content[1]`."""
