"""Removes in the background what nothing points to any more: deleted entries, replaced files, abandoned uploads."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import structlog

from catalog_svc import metrics
from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.store.entry_store import EntryStore
from catalog_svc.store.file_store import FileStore
from catalog_svc.store.garbage_store import Garbage, GarbageKind, GarbageStore
from meshkit.failpoints import failpoint

REMEMBER_UPLOADS = timedelta(hours=24)
REMEMBER_REQUESTS = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class CollectGarbage:
    """The background task; several replicas share the work."""

    garbage: GarbageStore
    files: FileStore
    entries: EntryStore
    objects: ObjectStore
    abandoned_after: timedelta
    retention: timedelta
    """How long a deleted entry can be brought back."""

    async def run(self, pause_seconds: float) -> None:
        """Collects for ever."""
        while True:
            try:
                await self.collect()
            except Exception as error:  # database or object store away: nothing is lost, the next round tries again
                structlog.get_logger().warning("garbage.postponed", error=repr(error))
            await asyncio.sleep(pause_seconds)

    async def collect(self) -> int:
        """Removes all that is due; returns how many pieces it was."""
        await self.files.discard_abandoned(self.abandoned_after, REMEMBER_UPLOADS)
        await self.entries.forget_requests(REMEMBER_REQUESTS)
        while (entry_id := await self.entries.purge_one(self.retention)) is not None:
            structlog.get_logger().info("garbage.entry_purged", resource=entry_id)
        count = 0
        while (piece := await self.garbage.take()) is not None:
            await self._remove(piece)
            await self.garbage.strike_off(piece)
            metrics.GARBAGE.labels(piece.kind.value.lower()).inc()
            count += 1
        return count

    async def _remove(self, piece: Garbage) -> None:
        if piece.kind is GarbageKind.UPLOAD:
            await self.objects.remove_upload(piece.upload_id, piece.multipart_id)
        elif piece.kind is GarbageKind.CONTENT:
            async with self.garbage.unwanted(piece.object_key) as is_unwanted:
                if is_unwanted:
                    await self.objects.remove_content(piece.object_key)
                    await failpoint("garbage.removed")
        elif not await self.garbage.is_alive(piece.entry_id):
            removed = await self.objects.remove_entry(piece.entry_id)
            structlog.get_logger().info("garbage.entry_removed", resource=piece.entry_id, objects=removed)
