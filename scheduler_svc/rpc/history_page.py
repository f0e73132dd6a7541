"""A page of a job's history, of which no more is read than it holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from reeltune.scheduler.v1 import job_event_pb2

from meshkit.rpc.paging import MOST_PAGE_BYTES
from scheduler_svc.domain.events import JobEvent
from scheduler_svc.rpc.convert import event_to_proto

FetchEvents = Callable[[int, int], Awaitable[Sequence[JobEvent]]]
"""Reads events after a sequence, so many at most."""

_STRIDE = 128
"""Events read at once: a page of long lines is full after a few dozen, whatever number of them was asked for."""


async def read_page(fetch: FetchEvents, after: int, size: int) -> tuple[list[job_event_pb2.JobEvent], bool]:
    """Returns up to `size` events after a sequence, fewer where they would get too large, and whether more follow.

    Events neither change nor come between others: what is read in several strides is what one would have read.
    """
    page: list[job_event_pb2.JobEvent] = []
    used = 0
    while True:
        stride = min(size + 1 - len(page), _STRIDE)
        events = await fetch(after, stride)
        for event in events:
            message = event_to_proto(event)
            used += message.ByteSize()
            if len(page) == size or (page and used > MOST_PAGE_BYTES):
                return page, True
            page.append(message)
        if len(events) < stride:
            return page, False
        after = events[-1].sequence
