"""The newest events of one job, as they are told to those who watch it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from scheduler_svc.domain.events import JobEvent, LogLine, MetricPoint
from scheduler_svc.domain.job import Progress

MessageT = TypeVar("MessageT")

_LEAST_BYTES = 256
"""What an event takes in memory beside its text, roughly."""


@dataclass(frozen=True, slots=True)
class Told(Generic[MessageT]):
    """An event in the form in which it is sent, made once for all who watch."""

    sequence: int
    message: MessageT
    is_progress: bool
    makes_final: bool
    size_bytes: int


def told(event: JobEvent, message: MessageT) -> Told[MessageT]:
    """Returns an event with the message that tells of it."""
    return Told(
        sequence=event.sequence,
        message=message,
        is_progress=isinstance(event.body, Progress),
        makes_final=event.makes_final,
        size_bytes=_estimate(event),
    )


class EventRing(Generic[MessageT]):
    """A stretch of a job's history without a gap, that grows at its end and is cut at its beginning.

    Bounded by count and by bytes; the newest event stays whatever its size.
    """

    def __init__(self, after_sequence: int, *, max_events: int = 1000, max_bytes: int = 512 * 1024) -> None:
        self._start = after_sequence
        self._events: list[Told[MessageT]] = []
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes

    @property
    def start(self) -> int:
        """Sequence of the event before the oldest."""
        return self._start

    @property
    def end(self) -> int:
        """Sequence of the newest event; the one that the ring began after while it has none."""
        return self._start + len(self._events)

    @property
    def size_bytes(self) -> int:
        """Roughly what the events take in memory."""
        return self._bytes

    def covers(self, after_sequence: int) -> bool:
        """Tells whether everything after a sequence, as far as it is known, is here."""
        return after_sequence >= self._start

    def after(self, sequence: int) -> Sequence[Told[MessageT]]:
        """Returns the events after a sequence that the ring covers."""
        return self._events[max(sequence - self._start, 0) :]

    def extend(self, events: Sequence[Told[MessageT]]) -> None:
        """Adds the events that follow the newest.

        Raises:
            ValueError: they do not follow it.
        """
        for event in events:
            if event.sequence != self.end + 1:
                raise ValueError(f"event {event.sequence} does not follow {self.end}")
            self._events.append(event)
            self._bytes += event.size_bytes
        self._cut()

    def _cut(self) -> None:
        surplus = max(len(self._events) - self._max_events, 0)
        left = self._bytes - sum(event.size_bytes for event in self._events[:surplus])
        while left > self._max_bytes and surplus < len(self._events) - 1:
            left -= self._events[surplus].size_bytes
            surplus += 1
        if surplus:
            del self._events[:surplus]
            self._start += surplus
            self._bytes = left


def thin(events: Sequence[Told[MessageT]], history_end: int, behind: int) -> tuple[list[Told[MessageT]], bool]:
    """Leaves out progress that is old news to a reader who has fallen behind; returns whether any was left out.

    A reader for whom `behind` events after `history_end` wait has fallen behind: of their progress it gets the newest.
    History, which the reader asked for, is told in full, and so is everything that is no progress.
    """
    live = [event.sequence for event in events if event.sequence > history_end]
    if len(live) < behind:
        return list(events), False
    newest = max((event.sequence for event in events if event.is_progress), default=0)
    kept = [
        event for event in events if not event.is_progress or event.sequence <= history_end or event.sequence == newest
    ]
    return kept, len(kept) < len(events)


def _estimate(event: JobEvent) -> int:
    match event.body:
        case LogLine(_, text):
            return _LEAST_BYTES + len(text)
        case MetricPoint(_, values):
            return _LEAST_BYTES + sum(len(name) + 32 for name in values)
        case _:
            return _LEAST_BYTES
