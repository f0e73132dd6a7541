"""Pages of a job's history: all of it, in order, and no more read than a page holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from scheduler_svc.domain.events import JobEvent, LogLevel, LogLine
from scheduler_svc.rpc.history_page import read_page


class History:
    """Log lines, each of so many characters; counts those that were read."""

    def __init__(self, count: int, characters: int) -> None:
        now = datetime.now(UTC)
        line = LogLine(LogLevel.INFO, "x" * characters)
        self._events = [JobEvent(sequence, now, 1, line) for sequence in range(1, count + 1)]
        self.read = 0

    async def fetch(self, after: int, limit: int) -> Sequence[JobEvent]:
        events = self._events[after : after + limit]
        self.read += len(events)
        return events


@pytest.mark.parametrize(("count", "characters"), [(0, 1), (1, 1), (1000, 1), (1001, 1), (2500, 100), (300, 16_000)])
@pytest.mark.parametrize("size", [1, 100, 127, 128, 1000])
async def test_the_pages_together_are_the_history(count: int, characters: int, size: int) -> None:
    history = History(count, characters)
    told: list[int] = []
    has_more = True
    while has_more:
        page, has_more = await read_page(history.fetch, told[-1] if told else 0, size)
        assert len(page) <= size
        assert page or not count
        told += [message.sequence for message in page]
    assert told == list(range(1, count + 1))


async def test_of_long_lines_few_more_are_read_than_the_page_holds() -> None:
    history = History(1001, 16_000)
    page, has_more = await read_page(history.fetch, 0, 1000)
    assert has_more
    assert 100 < len(page) < 140
    assert history.read <= len(page) + 128


async def test_one_line_makes_a_page_whatever_its_size() -> None:
    page, has_more = await read_page(History(2, 3_000_000).fetch, 0, 10)
    assert (len(page), has_more) == (1, True)
