"""JSON lines and JSON arrays as records, one row at a time. Pure."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from catalog_svc.domain import issue
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.record import Record, Unreadable
from catalog_svc.domain.text_lines import MAX_LINE_CHARACTERS, BadLine, TextLines

MAX_DEPTH = 64
_SPACE = " \t\r\n"
_SPACES = re.compile(f"[{_SPACE}]*")
_CHUNK_BYTES = 64 * 1024
_LONGEST_LITERAL = len("-Infinity")
_MEND_JSON = "write one JSON object a line, or one JSON array"
# What is no UTF-8 is decoded to these, and refused by row: one bad row does not hide what is wrong with others.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_BRACKET_OR_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def json_records(file: str, stream: BinaryIO) -> Iterator[Record | Issue]:
    """Yields the rows; raises Unreadable where an array is broken. The rows of a packed list have its number."""
    start = stream.tell()
    is_array = _is_array(file, stream)
    stream.seek(start)
    return _array_records(file, _ArrayText(stream)) if is_array else _line_records(file, TextLines(file, stream))


def _is_array(file: str, stream: BinaryIO) -> bool:
    """Tells an array from lines, the first of which may be a whole array itself: a packed sample."""
    start, first = stream.tell(), b" "
    while first and not first.strip():
        start, first = stream.tell(), stream.read(_CHUNK_BYTES)
    if not first.lstrip().startswith(b"["):
        return False
    stream.seek(start)
    lines = TextLines(file, stream)
    try:
        json.loads(next(line for line in lines if line.strip(_SPACE)))
    except (BadLine, ValueError, RecursionError):
        return True
    try:
        return next((False for line in lines if line.strip(_SPACE)), True)
    except BadLine:
        return False


def _line_records(file: str, lines: TextLines) -> Iterator[Record | Issue]:
    number = 0
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except BadLine as bad:
            number += 1
            yield bad.as_issue(file, number)
            continue
        if line.strip(_SPACE):
            number += 1
            yield from _line_record(file, number, line, lines.number)


def _line_record(file: str, number: int, line: str, line_number: int) -> Iterator[Record | Issue]:
    try:
        value = _DECODER.decode(line)
    except RecursionError:
        yield _too_deep(file, number)
    except ValueError as error:
        what = f"line {line_number} is not JSON: {error}"
        yield issue.error("ROW_INVALID", what, _MEND_JSON, file=file, row=number)
    else:
        yield from _rows_of(file, number, value, line)


def _array_records(file: str, text: _ArrayText) -> Iterator[Record | Issue]:
    text.take()  # the bracket
    number = 0
    if text.peek() == "]":
        text.take()
    else:
        separator = ","
        while separator == ",":
            number += 1
            yield from _element(file, number, text)
            separator = text.take()
            if separator not in (",", "]"):
                found = repr(separator) if separator else "the end of the file"
                raise _broken(file, number, f"expected `,` or `]`, found {found}", text.line())
    if text.peek():
        what = "something follows the end of the JSON array"
        raise Unreadable(issue.error("ROW_INVALID", what, _MEND_JSON, file=file, row=number))


def _element(file: str, number: int, text: _ArrayText) -> Iterator[Record | Issue]:
    try:
        text.peek()
        value, source = text.take_value()
    except RecursionError:
        raise Unreadable(_too_deep(file, number)) from None
    except BadLine as bad:
        raise Unreadable(bad.as_issue(file, number)) from bad
    except json.JSONDecodeError as error:
        raise _broken(file, number, error.msg, text.line(error.pos)) from error
    except ValueError as error:
        raise _broken(file, number, str(error), text.line()) from error
    yield from _rows_of(file, number, value, source)


class _ArrayText:
    """A JSON text of any length, of which a little more than one element is held at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._position = 0
        self._lines_before = 1
        self._is_whole = False

    def line(self, position: int | None = None) -> int:
        """Returns the number of the line of a position in what is held, or of what comes next."""
        return self._lines_before + self._text.count("\n", 0, self._position if position is None else position)

    def peek(self) -> str:
        """Skips space and returns the next character without taking it, or the empty string at the end."""
        while True:
            self._position = _SPACES.match(self._text, self._position).end()  # type: ignore[union-attr]  # may be empty
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_on():
                return ""

    def take(self) -> str:
        """Skips space and returns the next character, or the empty string at the end."""
        character = self.peek()
        self._position += len(character)
        return character

    def take_value(self) -> tuple[Any, str]:
        """Returns the value that begins here, and its text; raises ValueError, RecursionError or BadLine."""
        while True:
            start = self._position
            try:
                value, end = _DECODER.raw_decode(self._text, start)
            except json.JSONDecodeError as error:
                if not self._may_be_cut(error) or not self._read_on():
                    raise
                continue
            if end == len(self._text) and self._read_on():
                continue  # a number may go on
            self._position = end
            source = self._text[start:end]
            if len(source) > MAX_LINE_CHARACTERS:
                raise _too_long()
            return value, source

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _LONGEST_LITERAL
        if is_cut and len(self._text) - self._position > MAX_LINE_CHARACTERS:
            raise _too_long() from error
        return is_cut

    def _read_on(self) -> bool:
        """Reads a stretch more, and forgets what was taken; returns whether there was more."""
        if self._is_whole:
            return False
        data = self._stream.read(_CHUNK_BYTES)
        self._is_whole = not data
        self._lines_before = self.line()
        self._text = self._text[self._position :] + self._decoder.decode(data, final=self._is_whole)
        self._position = 0
        return True


def _rows_of(file: str, number: int, value: Any, source: str) -> Iterator[Record | Issue]:
    """Yields a row, or the rows of a packed list."""
    if escaped := _ESCAPED_BYTE.search(source):
        what = f"the row is not UTF-8 (byte 0x{ord(escaped[0]) & 0xFF:02x})"
        remedy = "save the file as UTF-8 and upload it again"
        yield issue.error("ENCODING_INVALID", what, remedy, file=file, row=number)
    elif _is_too_deep(source):
        yield _too_deep(file, number)
    elif isinstance(value, dict):
        yield Record(number, value)
    elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        for position, row in enumerate(value):
            yield Record(number, row, f"[{position}].")
    else:
        what = f"the row is a JSON {_json_type(value)}, not an object"
        remedy = 'write {"video": …, "caption": …} or {"messages": […]}'
        yield issue.error("ROW_INVALID", what, remedy, file=file, row=number)


def _is_too_deep(source: str) -> bool:
    if source.count("[") + source.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for found in _BRACKET_OR_STRING.finditer(source):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > MAX_DEPTH:
            return True
    return False


def _broken(file: str, number: int, cause: str, line: int) -> Unreadable:
    what = f"the file is not JSON from line {line} on: {cause}"
    return Unreadable(issue.error("ROW_INVALID", what, "mend the JSON from there on", file=file, row=number))


def _too_long() -> BadLine:
    what = f"the row has more than {MAX_LINE_CHARACTERS} characters"
    return BadLine("ROW_TOO_LONG", what, "shorten the row")


def _too_deep(file: str, number: int) -> Issue:
    what = f"the row is nested more than {MAX_DEPTH} deep"
    return issue.error("ROW_TOO_DEEP", what, "keep to the documented form", file=file, row=number)


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
