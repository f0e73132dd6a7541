"""Removes objects that no job points to any more."""

from __future__ import annotations

import asyncio

import structlog

from meshkit.blob import BlobError, BlobUnavailable
from meshkit.postgres.trouble import POSTGRES_TROUBLE
from scheduler_svc.clients.attempt_files import AttemptFiles
from scheduler_svc.store.garbage_store import GarbageStore

_MAX_REMOVALS = 200
"""At a time: the row stays locked meanwhile."""


class GarbageCollector:
    """Empties the prefixes of deleted jobs and dead attempts."""

    def __init__(self, garbage: GarbageStore, files: AttemptFiles) -> None:
        self._garbage = garbage
        self._files = files

    async def run(self, interval_seconds: float) -> None:
        """Collects for ever."""
        while True:
            try:
                while await self.collect_one():
                    pass
            except (BlobError, BlobUnavailable, *POSTGRES_TROUBLE) as error:
                structlog.get_logger().warning("garbage.failed", cause=repr(error))
            await asyncio.sleep(interval_seconds)

    async def collect_one(self) -> bool:
        """Empties one prefix that is due, what is still pointed to excepted; tells whether there was one."""
        async with self._garbage.take() as garbage:
            if garbage is None:
                return False
            aborted = await self._files.abort_uploads(garbage.prefix)
            names = [name for name in await self._files.list_names(garbage.prefix) if name not in garbage.kept_names]
            for name in names[:_MAX_REMOVALS]:
                await self._files.remove(name)
            garbage.is_empty = len(names) <= _MAX_REMOVALS
        if names or aborted:
            removed = len(names[:_MAX_REMOVALS])
            structlog.get_logger().info(
                "garbage.removed", prefix=garbage.prefix, objects=removed, unfinished_uploads=aborted
            )
        return True
