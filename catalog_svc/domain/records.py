"""Annotation files as records: CSV, JSON lines and JSON arrays, read with hard limits. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from catalog_svc.domain import issue
from catalog_svc.domain.issue import Issue, shown

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_RECORD_CHARACTERS = 512 * 1024
"""At most 2 MiB in UTF-8: a row must fit into one message of the service."""
MAX_RECORDS = 500_000
MAX_COLUMNS = 100

_SPACE = " \t\r\n"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SAVE_AS_UTF8 = "save the file as UTF-8 and upload it again"


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stands in the file."""

    number: int
    """Counts from 1, without a CSV's header and without blank lines."""
    value: dict[str, Any]


class _Unreadable(Exception):
    """The rest of the file cannot be read."""

    def __init__(self, found: Issue) -> None:
        super().__init__(found.message)
        self.issue = found


def read_records(file: str, data: bytes) -> Iterator[Record | Issue]:
    """Yields the records of an annotation file in order, and an issue for each thing that is no record.

    A file whose name ends in `.csv` is CSV with a header; any other starts with `[` (a JSON array of objects) or holds
    one JSON object a line. Ends after an issue that makes the rest unreadable. Never raises for any content.
    """
    try:
        text = _decode(file, data)
        records = _csv_records(file, text) if file.lower().endswith(".csv") else _json_records(file, text)
        for count, record in enumerate(records, start=1):
            if count > MAX_RECORDS:
                raise _Unreadable(
                    issue.error(
                        "TOO_MANY_ROWS",
                        f"the file has more than {MAX_RECORDS} rows",
                        "split the dataset in two",
                        file=file,
                    )
                )
            yield record
    except _Unreadable as unreadable:
        yield unreadable.issue


def _decode(file: str, data: bytes) -> str:
    if len(data) > MAX_FILE_BYTES:
        what = f"the file has {len(data)} bytes, at most {MAX_FILE_BYTES} are read"
        raise _Unreadable(issue.error("ANNOTATIONS_TOO_LARGE", what, "split the dataset in two", file=file))
    if data.startswith(_UTF16_MARKS):
        raise _Unreadable(issue.error("ENCODING_INVALID", "the file is in UTF-16, not UTF-8", _SAVE_AS_UTF8, file=file))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})"
        raise _Unreadable(issue.error("ENCODING_INVALID", what, _SAVE_AS_UTF8, file=file)) from error


def _csv_records(file: str, text: str) -> Iterator[Record | Issue]:
    reader = _rows(file, text)
    header = next(reader, None)
    if header is None:
        return
    names = [name.strip().lower() for name in header]
    _check_header(file, names)
    for number, cells in enumerate(reader, start=1):
        if len(cells) != len(names):
            what = f"the row has {len(cells)} cells, the header has {len(names)}"
            yield issue.error("ROW_INVALID", what, 'quote cells that hold a comma: "like, this"', file=file, row=number)
        else:
            yield Record(number, dict(zip(names, cells, strict=True)))


def _rows(file: str, text: str) -> Iterator[list[str]]:
    """Yields the CSV's rows that are not blank; the delimiter is the one of `,` `;` tab that the header uses most."""
    header = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = -1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = f"the file is not CSV from line {reader.line_num} on: {error}"
            raise _Unreadable(
                issue.error(
                    "ROW_INVALID",
                    what,
                    'close every quote, and write a quote inside a cell as ""',
                    file=file,
                    row=number + 1,
                )
            ) from error
        if any(cell.strip() for cell in cells):
            number += 1
            yield cells


def _check_header(file: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1 and name}) if len(names) <= MAX_COLUMNS else []
    if twice or len(names) > MAX_COLUMNS:
        what = (
            f"the header names {shown(twice[0])!r} twice"
            if twice
            else f"the header has more than {MAX_COLUMNS} columns"
        )
        raise _Unreadable(
            issue.error(
                "HEADER_INVALID", what, "give each column once: video,caption or video,question,answer", file=file
            )
        )


def _json_records(file: str, text: str) -> Iterator[Record | Issue]:
    start = _skip_space(text, 0)
    if start < len(text) and text[start] == "[":
        return _array_records(file, text, start)
    return _line_records(file, text)


def _line_records(file: str, text: str) -> Iterator[Record | Issue]:
    number = 0
    # Not splitlines(): that also splits at U+2028 and others, which JSON texts may hold.
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip(_SPACE):
            continue
        number += 1
        yield _record(file, number, line, f"line {line_number}")


def _record(file: str, number: int, text: str, place: str) -> Record | Issue:
    if len(text) > MAX_RECORD_CHARACTERS:
        what = f"{place} has {len(text)} characters, at most {MAX_RECORD_CHARACTERS} are read"
        return issue.error("ROW_TOO_LONG", what, "shorten the row", file=file, row=number)
    try:
        return _object(file, number, _DECODER.decode(text))
    except RecursionError:
        return _too_deep(file, number)
    except ValueError as error:
        what = f"{place} is not a JSON object: {error}"
        return issue.error(
            "ROW_INVALID", what, "write one JSON object a line, or one JSON array", file=file, row=number
        )


def _array_records(file: str, text: str, start: int) -> Iterator[Record | Issue]:
    """Decodes element by element, so that a long array does not block other threads for long."""
    position, number = _skip_space(text, start + 1), 0
    if text[position : position + 1] == "]":
        _check_end(file, text, position + 1)
        return
    while True:
        number += 1
        try:
            value, end = _DECODER.raw_decode(text, position)
        except RecursionError:
            raise _Unreadable(_too_deep(file, number)) from None
        except ValueError as error:
            raise _Unreadable(_not_json(file, number, str(error))) from error
        yield _object(file, number, value)
        position = _skip_space(text, end)
        separator = text[position : position + 1]
        if separator == "]":
            _check_end(file, text, position + 1)
            return
        if separator != ",":
            found = repr(separator) if separator else "the end of the file"
            raise _Unreadable(_not_json(file, number, f"expected `,` or `]`, found {found} at character {position}"))
        position = _skip_space(text, position + 1)


def _check_end(file: str, text: str, position: int) -> None:
    if _skip_space(text, position) < len(text):
        what = "something follows the end of the JSON array"
        raise _Unreadable(
            issue.error("ROW_INVALID", what, "keep one array, or write one JSON object a line", file=file)
        )


def _object(file: str, number: int, value: Any) -> Record | Issue:
    if not isinstance(value, dict):
        what = f"the row is a JSON {_json_type(value)}, not an object"
        return issue.error(
            "ROW_INVALID", what, 'write {"video": …, "caption": …} or {"messages": […]}', file=file, row=number
        )
    return Record(number, value)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _not_json(file: str, number: int, cause: str) -> Issue:
    return issue.error(
        "ROW_INVALID", f"the file is not JSON: {cause}", "mend the JSON from there on", file=file, row=number
    )


def _too_deep(file: str, number: int) -> Issue:
    return issue.error(
        "ROW_INVALID", "the row is nested too deeply", "keep to the documented form", file=file, row=number
    )


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
