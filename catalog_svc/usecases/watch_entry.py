"""Follows an entry until its validation has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import END_STATES, EntryId, EntryKind, Viewer
from catalog_svc.domain.errors import ServiceStopping
from catalog_svc.domain.model import Model
from catalog_svc.store.change_feed import ChangeFeed
from catalog_svc.store.entry_store import EntryStore

HEARTBEAT_SECONDS = 15.0
LOOK_SECONDS = 3.0
"""How often a watch looks by itself, should no wake-up come."""
MIN_SECONDS = 0.1
"""Shortest time between two messages: a slow reader gets fewer, and never misses the last one."""


@dataclass(frozen=True, slots=True)
class WatchEntry:
    """Watches of entries."""

    entries: EntryStore
    changes: ChangeFeed
    stopping: asyncio.Event
    """Set when the service begins to stop."""
    heartbeat_seconds: float = HEARTBEAT_SECONDS

    async def watch(self, kind: EntryKind, entry_id: EntryId, viewer: Viewer) -> AsyncIterator[Dataset | Model]:
        """Yields the entry as it is, after every change, and at least once a heartbeat; ends after READY or ERROR.

        Raises:
            EntryNotFound: the viewer may not see it; also later, when it is deleted or no longer shared.
            ServiceStopping: the service stops; watch again.
        """
        loop = asyncio.get_running_loop()
        with self.changes.subscribed(entry_id) as changed:
            last: Dataset | Model | None = None
            sent_at = 0.0
            while True:
                changed.clear()
                current = await self.entries.get(kind, entry_id, viewer)
                if current != last or loop.time() - sent_at >= self.heartbeat_seconds:
                    last, sent_at = current, loop.time()
                    yield current
                if current.entry.state in END_STATES:
                    return
                await self._until_worth_a_look(changed, sent_at + self.heartbeat_seconds - loop.time())

    async def _until_worth_a_look(self, changed: asyncio.Event, seconds_to_heartbeat: float) -> None:
        limit = max(MIN_SECONDS, min(LOOK_SECONDS, seconds_to_heartbeat))
        waits = {asyncio.ensure_future(changed.wait()), asyncio.ensure_future(self.stopping.wait())}
        try:
            await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.stopping.is_set():
            raise ServiceStopping
        await asyncio.sleep(MIN_SECONDS if changed.is_set() else 0)
