"""Searches the bucket, slowly, for objects that nothing refers to: what came after the last look at its place.

What this database does not know may be another one's. So whoever searches has its mark in the bucket, and nobody
searches where there is any other: that of another database, or of files that were there first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from catalog_svc import metrics
from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.store.sweep_store import Sweep, SweepStore
from meshkit.blob import BlobStat

_PAGE = 1000
"""Objects looked at in one step."""
_MANY = 100
"""More than so many, and more than half of those looked at, are no leftovers: something else is wrong."""
_TELL_AGAIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SweepObjects:
    """The background task; of several replicas one at a time looks at a place."""

    sweeps: SweepStore
    objects: ObjectStore
    older_than: timedelta
    """What is younger may belong to an upload that this look does not know yet."""
    due_after: timedelta
    """What was found goes if it is found again after so long."""
    pause: timedelta
    """Between two steps."""
    takes_many: bool = False
    """Somebody has looked, and most of what lies there may go."""

    async def run(self) -> None:
        """Searches for ever."""
        while True:
            await asyncio.sleep(self.pause.total_seconds())
            try:
                await self.sweep()
            except Exception as error:  # database or object store away: the next step tries again
                structlog.get_logger().warning("sweep.postponed", error=repr(error))

    async def sweep(self) -> int:
        """Takes one step at the place that is due, if one is; returns how many objects it has had removed."""
        sweep = await self.sweeps.take()
        if sweep is None:
            return 0
        if not await self._is_alone():
            await self.sweeps.note(sweep.prefix, "", max(self.pause, _TELL_AGAIN))
            return 0
        return await self._step(sweep)

    async def _is_alone(self) -> bool:
        """Tells whether the mark of this database, and no other, is in the bucket; puts it there if it is not."""
        identity = await self.sweeps.identity()
        marks = await self.objects.list_marks()
        if identity not in marks:
            # Before the mark, lest a death between the two leave it alone there.
            if not marks and await self._is_anothers():
                await self.objects.put_unknown_mark()
            await self.objects.put_mark(identity)
            marks = await self.objects.list_marks()
        others = sorted(marks - {identity})
        if others:
            structlog.get_logger().error(
                "sweep.bucket_shared",
                cause="other databases keep, or have kept, files in this bucket: nothing is searched for or removed",
                remedy="give each mesh its own S3_BUCKET; if none of the others is in use, delete these objects",
                others=[self.objects.mark_key(other) for other in others],
            )
        return not others

    async def _is_anothers(self) -> bool:
        """Tells whether most files in the bucket are unknown: then they are, or were, those of another database."""
        page = await self.objects.list_page("contents/", "", _PAGE)
        contents = {owner for item in page if (owner := self.objects.content_key(item.key)) is not None}
        return 2 * len(await self.sweeps.unknown_contents(contents)) > len(contents)

    async def _step(self, sweep: Sweep) -> int:
        page = await self.objects.list_page(sweep.prefix, sweep.after_key, _PAGE)
        up_to = page[-1].key if len(page) == _PAGE else ""
        found = await self._unknown(page)
        removed = 0
        if len(found) > _MANY and 2 * len(found) > len(page) and not self.takes_many:
            structlog.get_logger().error(
                "sweep.too_much",
                cause=f"{len(found)} of {len(page)} objects are unknown to this database: they stay",
                remedy="was an old state of it restored? Else set CATALOG_SWEEP_MANY=true to have them removed",
                prefix=sweep.prefix,
                first=found[0],
            )
        else:
            old = await self.sweeps.note_finds(sweep, up_to, found, self.due_after)
            removed = await self._discard(sweep.prefix, old)
        await self.sweeps.note(sweep.prefix, up_to, self.pause)
        return removed

    async def _unknown(self, page: list[BlobStat]) -> list[str]:
        before = datetime.now(UTC) - self.older_than
        old = [item.key for item in page if item.modify_time is not None and item.modify_time < before]
        contents = {key: owner for key in old if (owner := self.objects.content_key(key)) is not None}
        uploads = {key: upload for key in old if (upload := self.objects.upload_id(key)) is not None}
        unknown_contents = await self.sweeps.unknown_contents(set(contents.values()))
        unknown_uploads = await self.sweeps.unknown_uploads(set(uploads.values()))
        return [key for key in old if contents.get(key) in unknown_contents or uploads.get(key) in unknown_uploads]

    async def _discard(self, prefix: str, keys: list[str]) -> int:
        if keys:
            metrics.SWEPT.inc(len(keys))
            structlog.get_logger().info("sweep.found", prefix=prefix, objects=len(keys), first=keys[0])
            await self.sweeps.discard(
                {owner for key in keys if (owner := self.objects.content_key(key)) is not None},
                {upload for key in keys if (upload := self.objects.upload_id(key)) is not None},
            )
        return len(keys)
