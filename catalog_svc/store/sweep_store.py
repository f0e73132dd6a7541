"""How far the search for objects that nothing refers to has come, in Postgres."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from catalog_svc.domain.upload import UploadId
from catalog_svc.store.queries import queries
from meshkit.postgres import Pool, transaction


@dataclass(frozen=True, slots=True)
class Sweep:
    """A place in the bucket, and the key up to which it has been looked at; empty: from the start."""

    prefix: str
    after_key: str


class SweepStore:
    """Keeps the search and what it has found, and puts on the list of garbage what it gives up."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def identity(self) -> str:
        """Returns the name of this database: random, and its own for ever."""
        return str(await self._pool.fetchval(queries().get_identity))

    async def take(self) -> Sweep | None:
        """Takes a place that is due; it comes again after ten minutes unless its end is noted."""
        row = await self._pool.fetchrow(queries().take_sweep)
        return None if row is None else Sweep(row["prefix"], row["after_key"])

    async def note(self, prefix: str, after_key: str, pause: timedelta) -> None:
        """Notes how far a place has been looked at, and how long to wait before going on."""
        await self._pool.execute(queries().note_sweep, prefix, after_key, pause)

    async def unknown_contents(self, object_keys: Collection[str]) -> set[str]:
        """Returns the contents that nothing refers to."""
        rows = await self._pool.fetch(queries().list_unknown_contents, list(object_keys))
        return {row["key"] for row in rows}

    async def unknown_uploads(self, upload_ids: Collection[UploadId]) -> set[UploadId]:
        """Returns the uploads that are not under way."""
        rows = await self._pool.fetch(queries().list_unknown_uploads, list(upload_ids))
        return {UploadId(row["upload_id"]) for row in rows}

    async def note_finds(self, sweep: Sweep, up_to: str, found: Collection[str], after: timedelta) -> list[str]:
        """Notes which objects of a place are nobody's, of those up to a key (empty: of all that follow).

        Returns which of them were so already `after` ago, at each look since then.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(queries().note_finds, sweep.prefix, sweep.after_key, up_to, list(found))
            rows = await connection.fetch(queries().list_old_finds, list(found), after)
        return [row["object_key"] for row in rows]

    async def discard(self, object_keys: Collection[str], upload_ids: Collection[UploadId]) -> None:
        """Has contents removed, if nothing refers to them when their turn comes, and what is staged of uploads."""
        async with transaction(self._pool) as connection:
            await connection.execute(queries().discard_contents, list(object_keys))
            await connection.execute(queries().discard_uploads, list(upload_ids))
