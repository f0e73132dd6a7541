"""Reports on their way to the scheduler: kept until acknowledged, sent again after a break."""

from __future__ import annotations

from collections import deque

from trainer_svc.domain.reports import NumberedReport, Progress, Report


class ReportBuffer:
    """Numbers an attempt's reports and keeps each until it is recorded.

    A report gets its number when it is taken for sending and never changes afterwards: what was sent may have been
    recorded although the acknowledgement was lost. Of the reports not yet taken only the newest progress is kept, in
    the newest place; nothing else is ever dropped, and order is kept. Numbers have no gaps.
    """

    def __init__(self, *, capacity: int = 20_000, window: int = 256) -> None:
        """`capacity`: how many reports may wait before `is_full`; `window`: how many may be sent unacknowledged."""
        self._capacity = capacity
        self._window = window
        self._sent: deque[NumberedReport] = deque()
        self._next_to_send = 0
        self._last_number = 0
        # Insertion-ordered, by arrival: a waiting progress report can be taken out of the middle.
        self._waiting: dict[int, Report] = {}
        self._arrivals = 0
        self._waiting_progress: int | None = None

    def add(self, report: Report) -> None:
        """Takes a report in. Whoever adds faster than the scheduler records must wait while `is_full`."""
        self._arrivals += 1
        if isinstance(report, Progress):
            if self._waiting_progress is not None:
                del self._waiting[self._waiting_progress]
            self._waiting_progress = self._arrivals
        self._waiting[self._arrivals] = report

    def take(self) -> NumberedReport | None:
        """The next report to send, or None when there is none or too many are unacknowledged."""
        if self._next_to_send == len(self._sent):
            if not self._waiting or len(self._sent) >= self._window:
                return None
            self._number_next()
        taken = self._sent[self._next_to_send]
        self._next_to_send += 1
        return taken

    def acknowledge(self, number: int) -> None:
        """Drops all reports up to `number`: they are recorded."""
        while self._sent and self._sent[0].number <= number:
            self._sent.popleft()
            self._next_to_send = max(0, self._next_to_send - 1)

    def rewind(self) -> None:
        """Makes everything unacknowledged be sent again, in order: the stream broke."""
        self._next_to_send = 0

    @property
    def is_empty(self) -> bool:
        """True when everything ever added is recorded or superseded."""
        return not self._sent and not self._waiting

    @property
    def is_full(self) -> bool:
        return len(self._sent) + len(self._waiting) >= self._capacity

    def _number_next(self) -> None:
        arrival = next(iter(self._waiting))
        report = self._waiting.pop(arrival)
        if arrival == self._waiting_progress:
            self._waiting_progress = None
        self._last_number += 1
        self._sent.append(NumberedReport(self._last_number, report))
