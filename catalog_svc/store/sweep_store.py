"""How far the search for objects that nothing refers to has come, in Postgres."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from catalog_svc.domain.upload import UploadId
from catalog_svc.store.queries import queries
from meshkit.postgres import Pool


@dataclass(frozen=True, slots=True)
class Sweep:
    """A place in the bucket, and the key up to which it has been looked at; empty: from the start."""

    prefix: str
    after_key: str


class SweepStore:
    """Keeps the search, and puts what it finds on the list of garbage."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self) -> Sweep | None:
        """Takes a place that is due; it comes again after ten minutes unless its end is noted."""
        row = await self._pool.fetchrow(queries().take_sweep)
        return None if row is None else Sweep(row["prefix"], row["after_key"])

    async def note(self, prefix: str, after_key: str, pause: timedelta) -> None:
        """Notes how far a place has been looked at, and how long to wait before going on."""
        await self._pool.execute(queries().note_sweep, prefix, after_key, pause)

    async def discard_unknown_contents(self, object_keys: Collection[str]) -> list[str]:
        """Has contents removed that nothing refers to, now and when they are removed; returns which."""
        rows = await self._pool.fetch(queries().discard_unknown_contents, list(object_keys))
        return [row["object_key"] for row in rows]

    async def discard_unknown_uploads(self, upload_ids: Collection[UploadId]) -> list[UploadId]:
        """Has what is staged removed of uploads that are not under way; returns which."""
        rows = await self._pool.fetch(queries().discard_unknown_uploads, list(upload_ids))
        return [UploadId(row["upload_id"]) for row in rows]
