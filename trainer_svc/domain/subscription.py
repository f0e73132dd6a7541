"""What one watcher of an attempt has not read yet."""

from __future__ import annotations

from collections import deque

from trainer_svc.domain.reports import Progress, Report


class Subscription:
    """A bounded queue of reports: a slow watcher sees the newest progress only and, at worst, loses the oldest lines.

    The scheduler keeps the whole history; this is the view from the side.
    """

    def __init__(self, *, capacity: int = 1000) -> None:
        self._reports: deque[Report] = deque(maxlen=capacity)
        self.is_closed = False
        """True once the attempt has ended: what is left can still be read."""

    def add(self, report: Report) -> None:
        if isinstance(report, Progress) and self._reports and isinstance(self._reports[-1], Progress):
            self._reports.pop()
        self._reports.append(report)

    def take(self) -> Report | None:
        return self._reports.popleft() if self._reports else None

    def close(self) -> None:
        self.is_closed = True
