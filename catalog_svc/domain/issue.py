"""Things that are wrong with a dataset: where, what, and how to mend them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_TEXT = 500


class Severity(enum.StrEnum):
    """How much an issue weighs: an ERROR keeps the dataset from READY."""

    ERROR = "ERROR"
    WARNING = "WARNING"


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong."""

    severity: Severity
    reason: str
    message: str
    remedy: str
    file: str = ""
    row: int = 0
    field: str = ""


def error(reason: str, message: str, remedy: str, *, file: str = "", row: int = 0, field: str = "") -> Issue:
    """Returns an issue that keeps the dataset from READY."""
    return Issue(Severity.ERROR, reason, shown(message, MAX_TEXT), shown(remedy, MAX_TEXT), file, row, field)


def warning(reason: str, message: str, remedy: str, *, file: str = "", row: int = 0, field: str = "") -> Issue:
    """Returns an issue that the owner may want to know of."""
    return Issue(Severity.WARNING, reason, shown(message, MAX_TEXT), shown(remedy, MAX_TEXT), file, row, field)


def shown(text: object, most: int = 80) -> str:
    """Returns text from outside as it may stand in a message: shortened, and storable whatever it holds."""
    clean = str(text).encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    return clean if len(clean) <= most else clean[: most - 1] + "…"
