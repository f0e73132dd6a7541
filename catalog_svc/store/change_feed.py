"""Tells watchers at once when an entry changes: one connection that listens, shared by all watches of this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

import asyncpg
import structlog

_CHANNEL = "catalog_entry_changed"
_RECONNECT_SECONDS = 1.0
_PROBE_SECONDS = 10.0


class ChangeFeed:
    """Wakes those who wait for changes of an entry.

    A wake-up is a hint, never the truth: while the connection is down none come, so whoever waits also looks by
    themselves now and then.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def run(self) -> None:
        """Listens for ever; for the service's background tasks."""
        while True:
            try:
                await self._listen()
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ) as error:
                structlog.get_logger().warning("change_feed.lost", error=type(error).__name__)
                await asyncio.sleep(_RECONNECT_SECONDS)

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

    async def _listen(self) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=5)
        try:
            await connection.add_listener(_CHANNEL, self._on_change)
            # What happened while nobody listened is unknown: everybody looks once.
            for events in self._waiting.values():
                for event in events:
                    event.set()
            while True:
                await asyncio.sleep(_PROBE_SECONDS)
                await connection.execute("SELECT 1", timeout=5)
        finally:
            connection.terminate()

    def _on_change(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        for event in self._waiting.get(str(payload), ()):
            event.set()
