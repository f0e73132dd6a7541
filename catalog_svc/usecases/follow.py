"""Follows something that changes until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from catalog_svc.domain.errors import ServiceStopping
from catalog_svc.store.change_feed import ChangeFeed

HEARTBEAT_SECONDS = 15.0
LOOK_SECONDS = 3.0
"""How often a watch looks by itself, should no wake-up come."""
MIN_SECONDS = 0.1
"""Shortest time between two messages: a slow reader gets fewer, and never misses the last one."""

T = TypeVar("T")


async def follow(
    key: str,
    look: Callable[[], Awaitable[T]],
    is_last: Callable[[T], bool],
    *,
    changes: ChangeFeed,
    stopping: asyncio.Event,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> AsyncIterator[T]:
    """Yields what `look` returns: at once, after every change, and at least once a heartbeat; ends with the last.

    Args:
        key: What the change feed calls it.
        look: Returns it as it is now; what it raises ends the watch.
        is_last: Tells whether nothing changes any more.
        changes: Tells of changes.
        stopping: Set when the service begins to stop.
        heartbeat_seconds: Longest time between two messages.

    Raises:
        ServiceStopping: the service stops; watch again.
    """
    loop = asyncio.get_running_loop()
    with changes.subscribed(key) as changed:
        last: T | None = None
        sent_at = 0.0
        while True:
            changed.clear()
            current = await look()
            if current != last or loop.time() - sent_at >= heartbeat_seconds:
                last, sent_at = current, loop.time()
                yield current
            if is_last(current):
                return
            await _until_worth_a_look(changed, stopping, sent_at + heartbeat_seconds - loop.time())


async def _until_worth_a_look(changed: asyncio.Event, stopping: asyncio.Event, seconds_to_heartbeat: float) -> None:
    limit = max(MIN_SECONDS, min(LOOK_SECONDS, seconds_to_heartbeat))
    waits = {asyncio.ensure_future(changed.wait()), asyncio.ensure_future(stopping.wait())}
    try:
        await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if stopping.is_set():
        raise ServiceStopping
    await asyncio.sleep(MIN_SECONDS if changed.is_set() else 0)
