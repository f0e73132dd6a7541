"""Things that are wrong with a dataset: where, what, and how to mend them."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

MAX_TEXT = 500
MAX_STORED_ISSUES = 10_000


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


class IssueList:
    """Gathers issues, counts them all, and holds as many as are stored."""

    def __init__(self) -> None:
        self._held: dict[Severity, list[Issue]] = {Severity.ERROR: [], Severity.WARNING: []}
        self.errors = 0
        self.warnings = 0

    def add(self, found: Issue) -> None:
        """Adds an issue."""
        if found.severity is Severity.ERROR:
            self.errors += 1
        else:
            self.warnings += 1
        held = self._held[found.severity]
        if len(held) < MAX_STORED_ISSUES:
            held.append(found)

    def add_all(self, issues: Iterable[Issue]) -> None:
        """Adds several."""
        for found in issues:
            self.add(found)

    def shortened(self) -> tuple[Issue, ...]:
        """Returns the errors, then the warnings; instead of those that are too many, one that counts them."""
        issues = [*self._held[Severity.ERROR], *self._held[Severity.WARNING]]
        count = self.errors + self.warnings
        if count <= MAX_STORED_ISSUES:
            return tuple(issues)
        kept = MAX_STORED_ISSUES - 1
        what = f"{count - kept} more issues are not listed"
        more = warning("MORE_ISSUES", what, "mend these and validate again")
        return (*issues[:kept], replace(more, severity=issues[kept].severity))
