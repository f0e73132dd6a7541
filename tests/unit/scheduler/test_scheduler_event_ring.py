"""The ring of newest events is bounded and has no gap; only progress is ever left out, and only for who is behind."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.domain.event_ring import EventRing, Told, thin, told
from scheduler_svc.domain.events import EventBody, JobEvent, LogLevel, LogLine, MetricPoint
from scheduler_svc.domain.job import Progress

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def _event(sequence: int, body: EventBody | None = None) -> Told[str]:
    return told(JobEvent(sequence, NOW, 1, body or Progress(step=sequence)), f"message {sequence}")


@given(
    begin=st.integers(0, 50),
    batches=st.lists(st.lists(st.integers(0, 4096), max_size=30), max_size=20),
    max_events=st.integers(1, 40),
    max_bytes=st.integers(1, 20_000),
)
def test_a_ring_is_the_end_of_the_history(
    begin: int, batches: list[list[int]], max_events: int, max_bytes: int
) -> None:
    ring: EventRing[str] = EventRing(begin, max_events=max_events, max_bytes=max_bytes)
    history: list[Told[str]] = []
    for lengths in batches:
        first = begin + len(history) + 1
        new = [_event(first + place, LogLine(LogLevel.INFO, "x" * length)) for place, length in enumerate(lengths)]
        history += new
        ring.extend(new)
        held = ring.after(begin) if ring.covers(begin) else ring.after(ring.end - len(ring.after(0)))
        assert list(held) == history[len(history) - len(held) :]
        assert len(held) <= max_events
        assert ring.size_bytes == sum(event.size_bytes for event in held)
        assert ring.size_bytes <= max_bytes or len(held) == 1
        assert ring.end == begin + len(history)
        for sequence in range(begin, ring.end + 1):
            if ring.covers(sequence):
                assert list(ring.after(sequence)) == history[sequence - begin :]


def test_a_reader_that_is_ahead_of_the_ring_has_nothing_to_wait_in() -> None:
    ring: EventRing[str] = EventRing(5)
    ring.extend([_event(6)])
    assert ring.covers(9)
    assert list(ring.after(9)) == []


def test_a_gap_is_refused() -> None:
    ring: EventRing[str] = EventRing(5)
    with pytest.raises(ValueError, match="7 does not follow 5"):
        ring.extend([_event(7)])


def test_of_old_progress_the_newest_is_told() -> None:
    events = [_event(n, None if n % 2 else LogLine(LogLevel.INFO, str(n))) for n in range(1, 8)]
    kept, is_thinned = thin(events, 0, behind=7)
    assert [event.sequence for event in kept] == [2, 4, 6, 7]
    assert is_thinned
    assert thin(kept, 0, behind=1) == (kept, False)


def test_history_is_told_in_full_and_so_is_what_is_no_progress() -> None:
    events = [_event(n, MetricPoint(n, {"loss": 1.0}) if n % 3 == 0 else None) for n in range(1, 13)]
    assert thin(events, 0, behind=13) == (events, False)
    assert thin(events, 12, behind=1) == (events, False)
    kept, is_thinned = thin(events, 4, behind=8)
    assert is_thinned
    assert [event.sequence for event in kept] == [1, 2, 3, 4, 6, 9, 11, 12]
