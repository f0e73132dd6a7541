"""Follows an entry until its validation has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import END_STATES, EntryId, EntryKind, Viewer
from catalog_svc.domain.model import Model
from catalog_svc.store.change_feed import ChangeFeed
from catalog_svc.store.entry_store import EntryStore
from catalog_svc.usecases.follow import HEARTBEAT_SECONDS, follow


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
        async for current in follow(
            entry_id,
            lambda: self.entries.get(kind, entry_id, viewer),
            lambda current: current.entry.state in END_STATES,
            changes=self.changes,
            stopping=self.stopping,
            heartbeat_seconds=self.heartbeat_seconds,
        ):
            yield current
