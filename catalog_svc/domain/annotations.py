"""Annotation files: which file it is, which form it has, and the samples in it. Pure: bytes in, rows and issues out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from catalog_svc.domain import issue
from catalog_svc.domain.columns_format import is_columns_row, read_columns_row
from catalog_svc.domain.content_parts_format import is_content_parts_row, read_content_parts_row
from catalog_svc.domain.file_path import extension
from catalog_svc.domain.issue import Issue, shown
from catalog_svc.domain.records import Record, read_records
from catalog_svc.domain.row_reading import BadRow, read_sample_id, read_split
from catalog_svc.domain.sample import AnnotationFormat, Message, Sample, content_id

ANNOTATION_NAMES = ("annotations.csv", "annotations.jsonl", "annotations.json")
ANNOTATION_EXTENSIONS = frozenset({".csv", ".jsonl", ".json"})

_RowReader = Callable[[dict[str, Any]], tuple[tuple[Message, ...], tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Row:
    """A sound row."""

    number: int
    sample: Sample
    clip_fields: tuple[str, ...]
    """For each clip that the sample shows, in order, the field that names it."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """What an annotation file says."""

    file: str
    format: AnnotationFormat | None
    row_count: int
    """Of all rows, sound or not."""
    rows: tuple[Row, ...]
    issues: tuple[Issue, ...]


def find_annotation_file(paths: Iterable[str]) -> str | Issue:
    """Returns the path of the one annotation file, or what is wrong.

    It is `annotations.csv`, `.jsonl` or `.json`, or else the only file with one of these extensions in the root.
    """
    in_root = sorted(path for path in paths if "/" not in path)
    named = [path for path in in_root if path in ANNOTATION_NAMES]
    candidates = named or [path for path in in_root if extension(path) in ANNOTATION_EXTENSIONS]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        listed = ", ".join(shown(path, 40) for path in candidates[:5])
        return issue.error(
            "ANNOTATIONS_AMBIGUOUS",
            f"there are {len(candidates)} annotation files: {listed}",
            "keep one and remove the others, or name one annotations.csv, annotations.jsonl or annotations.json",
        )
    return issue.error(
        "ANNOTATIONS_MISSING",
        "there is no annotation file",
        "upload annotations.csv with the columns video,caption or video,question,answer, or annotations.jsonl",
    )


def parse_annotations(file: str, data: bytes) -> Annotations:
    """Returns the rows of an annotation file and all that is wrong with the others. Never raises for any content."""
    format_: AnnotationFormat | None = None
    rows: list[Row] = []
    issues: list[Issue] = []
    ids = _SampleIds()
    count = 0
    for record in read_records(file, data):
        if isinstance(record, Issue):
            count = max(count, record.row)
            issues.append(record)
            continue
        count = max(count, record.number)
        format_ = format_ or _format_of(record.value)
        try:
            rows.append(_row(record, format_, ids))
        except BadRow as bad:
            issues.append(
                issue.error(bad.reason, bad.message, bad.remedy, file=file, row=record.number, field=bad.field)
            )
    if count == 0 and not issues:
        issues.append(
            issue.error("ANNOTATIONS_EMPTY", "the annotation file has no row", "add at least one row", file=file)
        )
    return Annotations(file, format_, count, tuple(rows), tuple(issues))


def _row(record: Record, format_: AnnotationFormat | None, ids: _SampleIds) -> Row:
    value = record.value
    if format_ is None or _format_of(value) is not format_:
        raise BadRow(
            "ROW_INVALID",
            "",
            f"the row has the fields {shown(', '.join(sorted(map(str, value)))) or '(none)'}",
            "use video and caption, or video, question and answer, or messages — the same in all rows",
        )
    messages, clip_fields = _READERS[format_](value)
    split = read_split(value.get("split"))
    sample_id = ids.claim(read_sample_id(value.get("sample_id")), messages)
    return Row(record.number, Sample(sample_id, split, messages), clip_fields)


def _format_of(value: dict[str, Any]) -> AnnotationFormat | None:
    if is_content_parts_row(value):
        return AnnotationFormat.CONTENT_PARTS
    return AnnotationFormat.COLUMNS if is_columns_row(value) else None


_READERS: dict[AnnotationFormat, _RowReader] = {
    AnnotationFormat.CONTENT_PARTS: read_content_parts_row,
    AnnotationFormat.COLUMNS: read_columns_row,
}


class _SampleIds:
    """Hands out the ids of one file's samples: each once, and the same ones for the same rows."""

    def __init__(self) -> None:
        self._own: set[str] = set()
        self._copies: dict[str, int] = {}

    def claim(self, own: str | None, messages: tuple[Message, ...]) -> str:
        if own is not None:
            if own in self._own:
                raise BadRow(
                    "SAMPLE_ID_TWICE",
                    "sample_id",
                    f"another row has the sample_id {shown(own)!r}",
                    "give each row its own",
                )
            self._own.add(own)
            return own
        by_content = content_id(messages)
        copy = self._copies[by_content] = self._copies.get(by_content, 0) + 1
        # A colon cannot come about in the first copy's hexadecimal id, and equal rows differ by their count only.
        made = by_content if copy == 1 else f"{by_content}:{copy}"
        self._own.add(made)
        return made
