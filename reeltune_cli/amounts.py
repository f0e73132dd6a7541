"""Amounts as people write them: `24GB`, `1.5 TB`, `none`."""

from __future__ import annotations

import re

from reeltune_cli.client import ClientError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMGT]?B?)", re.IGNORECASE)
NO_LIMIT = "none"


def read_size(text: str) -> int:
    """Returns bytes. Raises ClientError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match["unit"].upper() not in _UNITS:
        raise ClientError(f"{text!r} is no size", "SIZE_INVALID", "write it like 24GB, 500MB or 1.5TB")
    return int(float(match["number"]) * _UNITS[match["unit"].upper()])


def read_count(text: str) -> int:
    """Returns a whole number. Raises ClientError."""
    if not text.strip().isdecimal():
        raise ClientError(f"{text!r} is no number", "NUMBER_INVALID", f"write a whole number, or {NO_LIMIT}")
    return int(text)


def read_hours(text: str) -> float:
    """Returns a number of hours. Raises ClientError."""
    try:
        return float(text)
    except ValueError:
        raise ClientError(f"{text!r} is no number", "NUMBER_INVALID", f"write hours, or {NO_LIMIT}") from None
