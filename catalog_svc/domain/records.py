"""Annotation files as records: CSV, JSON lines and JSON arrays, read as a stream with hard limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from catalog_svc.domain import issue
from catalog_svc.domain.csv_records import csv_records
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.json_records import json_records
from catalog_svc.domain.record import Record, Unreadable

MAX_RECORDS = 500_000

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_records(file: str, stream: BinaryIO) -> Iterator[Record | Issue]:
    """Yields the records of an annotation file in order, and an issue for each thing that is no record.

    A file whose name ends in `.csv` is CSV with a header; any other starts with `[` (a JSON array of objects) or holds
    one JSON object a line; a list of objects in place of one gives a record for each. Holds little more than one row in
    memory. Ends after an issue that makes the rest unreadable. Never raises for any content.

    Args:
        file: The path, for messages.
        stream: The file from its beginning; it must be seekable.
    """
    try:
        _check_encoding(file, stream)
        records = csv_records(file, stream) if file.lower().endswith(".csv") else json_records(file, stream)
        for count, record in enumerate(records, start=1):
            if count > MAX_RECORDS:
                what = f"the file has more than {MAX_RECORDS} rows"
                raise Unreadable(issue.error("TOO_MANY_ROWS", what, "split the dataset in two", file=file))
            yield record
    except Unreadable as unreadable:
        yield unreadable.issue


def _check_encoding(file: str, stream: BinaryIO) -> None:
    head = stream.read(4)
    # Without a mark: all our forms begin with Latin characters, of which every other byte is then 0.
    if head.startswith(_UTF16_MARKS) or head.count(0) > 1:
        remedy = "save the file as UTF-8 and upload it again"
        raise Unreadable(issue.error("ENCODING_INVALID", "the file is in UTF-16, not UTF-8", remedy, file=file))
    stream.seek(len(_UTF8_MARK) if head.startswith(_UTF8_MARK) else 0)
