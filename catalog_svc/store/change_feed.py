"""Tells watchers at once when an entry changes: one connection that listens, shared by all watches of this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NoReturn

from meshkit.postgres import listen

_CHANNEL = "catalog_entry_changed"


class ChangeFeed:
    """Wakes those who wait for changes of an entry.

    A wake-up is a hint, never the truth: while the connection is down none come, so whoever waits also looks by
    themselves now and then.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def run(self) -> NoReturn:
        """Listens for ever; for the service's background tasks."""
        await listen(self._dsn, {_CHANNEL: self._on_change}, self._wake_all, name="change_feed")

    @contextlib.contextmanager
    def subscribed(self, entry_id: str) -> Iterator[asyncio.Event]:
        """Gives an event that is set whenever the entry, or import, changes; the waiter clears it."""
        event = asyncio.Event()
        self._waiting[entry_id].add(event)
        try:
            yield event
        finally:
            self._waiting[entry_id].discard(event)
            if not self._waiting[entry_id]:
                del self._waiting[entry_id]

    def _on_change(self, entry_id: str) -> None:
        for event in self._waiting.get(entry_id, ()):
            event.set()

    def _wake_all(self) -> None:
        for events in self._waiting.values():
            for event in events:
                event.set()
