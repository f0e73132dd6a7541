"""CSV with a header as records, one row at a time. Pure."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from catalog_svc.domain import issue
from catalog_svc.domain.issue import Issue, shown
from catalog_svc.domain.record import Record, Unreadable
from catalog_svc.domain.text_lines import BadLine, TextLines

MAX_COLUMNS = 100
_MEND_QUOTES = 'close every quote, and write a quote inside a cell as ""'


def csv_records(file: str, stream: BinaryIO) -> Iterator[Record | Issue]:
    """Yields the rows below the header; raises Unreadable for a header, or a quote, that spoils the rest."""
    lines = TextLines(file, stream)
    try:
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            return
        # The delimiter is the one that the header uses most.
        delimiter = max(",;\t", key=first.count)
        reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        names = [name.strip().lower() for name in next(reader)]
    except (BadLine, csv.Error) as error:
        raise Unreadable(_bad_row(file, 0, lines.number, error)) from error
    _check_header(file, names)
    yield from _rows(file, names, reader, lines)


def _rows(file: str, names: list[str], reader: Iterator[list[str]], lines: TextLines) -> Iterator[Record | Issue]:
    number = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (BadLine, csv.Error) as error:
            number += 1
            yield _bad_row(file, number, lines.number, error)
            continue
        if not any(cell.strip() for cell in cells):
            continue
        number += 1
        if len(cells) != len(names):
            what = f"the row has {len(cells)} cells, the header has {len(names)}"
            yield issue.error("ROW_INVALID", what, 'quote cells that hold a comma: "like, this"', file=file, row=number)
        else:
            yield Record(number, dict(zip(names, cells, strict=True)))


def _bad_row(file: str, number: int, line: int, error: BadLine | csv.Error) -> Issue:
    if isinstance(error, BadLine):
        return error.as_issue(file, number)
    what = f"the row that ends in line {line} is not CSV: {error}"
    found = issue.error("ROW_INVALID", what, _MEND_QUOTES, file=file, row=number)
    if "field limit" in str(error):
        # A quote that nobody closed has swallowed the rows up to here; what follows begins in the middle of one.
        raise Unreadable(found) from error
    return found


def _check_header(file: str, names: list[str]) -> None:
    if len(names) > MAX_COLUMNS:
        what = f"the header has more than {MAX_COLUMNS} columns"
    elif twice := sorted({name for name in names if names.count(name) > 1 and name}):
        what = f"the header names {shown(twice[0])!r} twice"
    else:
        return
    remedy = "give each column once: video,caption or video,question,answer"
    raise Unreadable(issue.error("HEADER_INVALID", what, remedy, file=file))
