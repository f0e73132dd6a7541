"""The lines of a UTF-8 file of any size, one at a time. Pure."""

from __future__ import annotations

from typing import BinaryIO

from catalog_svc.domain import issue
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.record import Unreadable

MAX_LINES = 5_000_000
"""Blank ones too."""
MAX_LINE_CHARACTERS = 512 * 1024
"""At most 2 MiB in UTF-8: a row must fit into one message of the service."""
_MAX_LINE_BYTES = 4 * MAX_LINE_CHARACTERS
_SKIP_BYTES = 1024 * 1024


class BadLine(Exception):
    """A line cannot be read; those after it can."""

    def __init__(self, reason: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.remedy = remedy

    def as_issue(self, file: str, row: int) -> Issue:
        """Returns what is wrong as an issue of a row."""
        return issue.error(self.reason, self.message, self.remedy, file=file, row=row)


class TextLines:
    """Iterates over lines with their ends; after BadLine it goes on with the next one."""

    def __init__(self, file: str, stream: BinaryIO) -> None:
        self._file = file
        self._stream = stream
        self.number = 0
        """Of the line returned or refused last, counted from 1."""

    def __iter__(self) -> TextLines:
        return self

    def __next__(self) -> str:
        """Returns the next line; raises BadLine, or Unreadable after too many."""
        data = self._stream.readline(_MAX_LINE_BYTES + 1)
        if not data:
            raise StopIteration
        self.number += 1
        if self.number > MAX_LINES:
            what = f"the file has more than {MAX_LINES} lines"
            raise Unreadable(issue.error("TOO_MANY_ROWS", what, "split the dataset in two", file=self._file))
        if len(data) > _MAX_LINE_BYTES:
            while data and not data.endswith(b"\n"):
                data = self._stream.readline(_SKIP_BYTES)
            raise self._too_long()
        try:
            line = data.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"line {self.number} is not UTF-8 (byte 0x{data[error.start]:02x} at its byte {error.start + 1})"
            raise BadLine("ENCODING_INVALID", what, "save the file as UTF-8 and upload it again") from error
        if len(line) > MAX_LINE_CHARACTERS:
            raise self._too_long()
        return line

    def _too_long(self) -> BadLine:
        what = f"line {self.number} has more than {MAX_LINE_CHARACTERS} characters"
        return BadLine("ROW_TOO_LONG", what, "shorten the row")
