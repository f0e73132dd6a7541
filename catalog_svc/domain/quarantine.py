"""Quarantine: rows and clips that a dataset goes on without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from catalog_svc.domain.clip import ClipFault
from catalog_svc.domain.errors import InvalidField, NotQuarantinable
from catalog_svc.domain.issue import Issue, Severity
from catalog_svc.domain.sample import AnnotationFormat
from catalog_svc.domain.upload import StoredFile

WHOLE_FILE = 0
"""The row that stands for a clip, or for a text file that speaks of one clip."""
_CLIP_REASONS = frozenset(fault.value for fault in ClipFault)


@dataclass(frozen=True, slots=True)
class QuarantinedItem:
    """A row or clip that is left out as long as its file has these bytes."""

    file: str
    row: int
    sha256: str
    reason: str
    message: str


class Quarantine:
    """What a validation leaves out."""

    def __init__(self, items: Iterable[QuarantinedItem] = (), files: Mapping[str, StoredFile] | None = None) -> None:
        files = files or {}
        self._places = {
            (item.file, item.row) for item in items if item.file in files and files[item.file].sha256 == item.sha256
        }

    def holds_row(self, file: str, row: int) -> bool:
        """Tells whether a row is left out."""
        return (file, row) in self._places

    def holds_clip(self, path: str) -> bool:
        """Tells whether a clip is left out."""
        return (path, WHOLE_FILE) in self._places


NOTHING_QUARANTINED = Quarantine()


def all_with_errors(
    issues: Iterable[Issue], files: Mapping[str, StoredFile], format_: AnnotationFormat | None
) -> list[QuarantinedItem]:
    """Returns the rows and clips that the errors of a validation name.

    Raises:
        NotQuarantinable: an error concerns more than a row or a clip.
    """
    items: dict[tuple[str, int], QuarantinedItem] = {}
    for found in issues:
        if found.severity is not Severity.ERROR or found.reason == "MORE_ISSUES":
            continue
        row = _row_of(found, format_)
        if row is None or found.file not in files:
            raise NotQuarantinable(found.reason, found.message, found.remedy)
        items.setdefault((found.file, row), _item(files[found.file], row, found))
    return list(items.values())


def chosen(
    places: Sequence[tuple[str, int]],
    issues: Iterable[Issue],
    files: Mapping[str, StoredFile],
    format_: AnnotationFormat | None,
) -> list[QuarantinedItem]:
    """Returns the items at these places, given as (file, row).

    Raises:
        InvalidField: there is no such file, or it is a clip without an error.
    """
    known = {(found.file, _row_of(found, format_)): found for found in issues}
    items = []
    for number, (file, row) in enumerate(dict.fromkeys(places)):
        if file not in files:
            raise InvalidField(f"items[{number}].file", f"there is no file {file!r} in the dataset")
        found = known.get((file, row))
        if found is None and row == WHOLE_FILE and format_ is not AnnotationFormat.TEXT_FILES:
            raise InvalidField(f"items[{number}].row", f"{file!r} has no error; name the rows to leave out")
        items.append(_item(files[file], row, found))
    return items


def _row_of(found: Issue, format_: AnnotationFormat | None) -> int | None:
    if found.reason in _CLIP_REASONS:
        return WHOLE_FILE
    if found.row:
        return found.row
    return WHOLE_FILE if found.file and format_ is AnnotationFormat.TEXT_FILES else None


def _item(file: StoredFile, row: int, found: Issue | None) -> QuarantinedItem:
    if found is None:
        return QuarantinedItem(file.path, row, file.sha256, "CHOSEN", "its owner chose to leave it out")
    return QuarantinedItem(file.path, row, file.sha256, found.reason, found.message)
