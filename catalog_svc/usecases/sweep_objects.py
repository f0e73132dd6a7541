"""Searches the bucket, slowly, for objects that nothing refers to: what came after the last look at its place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.store.sweep_store import Sweep, SweepStore

_PAGE = 1000
"""Objects looked at in one step."""


@dataclass(frozen=True, slots=True)
class SweepObjects:
    """The background task; of several replicas one at a time looks at a place."""

    sweeps: SweepStore
    objects: ObjectStore
    older_than: timedelta
    """What is younger may belong to an upload that this look does not know yet."""
    pause: timedelta
    """Between two steps."""

    async def run(self) -> None:
        """Searches for ever."""
        while True:
            await asyncio.sleep(self.pause.total_seconds())
            try:
                await self.sweep()
            except Exception as error:  # database or object store away: the next step tries again
                structlog.get_logger().warning("sweep.postponed", error=repr(error))

    async def sweep(self) -> int:
        """Takes one step at the place that is due, if one is; returns how many objects it found that are nobody's."""
        sweep = await self.sweeps.take()
        return 0 if sweep is None else await self._step(sweep)

    async def _step(self, sweep: Sweep) -> int:
        page = await self.objects.list_page(sweep.prefix, sweep.after_key, _PAGE)
        before = datetime.now(UTC) - self.older_than
        old = [item.key for item in page if item.modify_time is not None and item.modify_time < before]
        contents = self.objects.content_keys(old)
        uploads = self.objects.upload_ids(old)
        found = [
            *(await self.sweeps.discard_unknown_contents(contents) if contents else ()),
            *(await self.sweeps.discard_unknown_uploads(uploads) if uploads else ()),
        ]
        if found:
            structlog.get_logger().info("sweep.found", prefix=sweep.prefix, objects=len(found), first=found[0])
        await self.sweeps.note(sweep.prefix, page[-1].key if len(page) == _PAGE else "", self.pause)
        return len(found)
