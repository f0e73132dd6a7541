"""Objects that nothing points to any more, in Postgres."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass

from catalog_svc.domain.entry import EntryId
from catalog_svc.domain.upload import UploadId
from catalog_svc.store.queries import queries
from meshkit.postgres import Connection, Pool, transaction


class GarbageKind(enum.StrEnum):
    """What is to be removed."""

    UPLOAD = "UPLOAD"
    """The staged object and the parts of an upload."""
    CONTENT = "CONTENT"
    """An object that holds verified bytes, if no file uses it."""
    ENTRY = "ENTRY"
    """All objects of an entry that was deleted when each kept its own."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """One piece."""

    id: int
    kind: GarbageKind
    entry_id: EntryId
    object_key: str
    upload_id: UploadId
    multipart_id: str | None


class GarbageStore:
    """Keeps the list of what is to be removed. What cannot be removed now comes up again."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self) -> Garbage | None:
        """Takes the next piece that is due; it comes again after ten minutes unless it is struck off."""
        row = await self._pool.fetchrow(queries().take_garbage)
        if row is None:
            return None
        return Garbage(
            id=row["id"],
            kind=GarbageKind(row["kind"]),
            entry_id=EntryId(row["entry_id"]),
            object_key=row["object_key"],
            upload_id=UploadId(row["upload_id"]),
            multipart_id=row["multipart_id"],
        )

    async def strike_off(self, garbage: Garbage) -> None:
        """Notes that a piece is removed; what it held for late bytes is free."""
        async with transaction(self._pool) as connection:
            await connection.execute(queries().lock_usage_of_garbage, garbage.id)
            await connection.execute(queries().delete_garbage, garbage.id)

    async def is_alive(self, entry_id: EntryId) -> bool:
        """Tells whether an entry exists."""
        return bool(await self._pool.fetchval(queries().is_entry_alive, entry_id))

    @contextlib.asynccontextmanager
    async def unwanted(self, object_key: str) -> AsyncIterator[bool]:
        """Tells whether no file or upload needs an object, and keeps it so while the block runs, which removes it.

        It is no content any more before the block begins, whatever becomes of the block: nobody is told that bytes are
        in place which have just gone.
        """
        async with self._locked(object_key) as (connection, is_wanted):
            if not is_wanted and await connection.fetchval(queries().delete_content, object_key) is not None:
                await connection.execute(queries().hold_late_content, object_key)
        async with self._locked(object_key) as (connection, is_wanted):
            # Content again: it came and went between the two, and whoever gave it up has left a piece of garbage.
            is_content = await connection.fetchval(queries().is_content, object_key)
            yield not (is_wanted or is_content)

    @contextlib.asynccontextmanager
    async def _locked(self, object_key: str) -> AsyncIterator[tuple[Connection, bool]]:
        """Keeps an object from being announced, and tells whether it is wanted."""
        async with transaction(self._pool) as connection:
            await connection.execute(queries().lock_object, object_key)
            yield connection, bool(await connection.fetchval(queries().is_object_wanted, object_key))
