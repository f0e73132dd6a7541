"""Objects that nobody needs any more."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta

from meshkit.postgres import Connection, Pool, Queries, transaction
from scheduler_svc.domain.files import FileSet
from scheduler_svc.domain.ids import AttemptKey, JobId
from scheduler_svc.store.rows import files_from_json

UPLOAD_MARGIN = timedelta(minutes=16)
"""A presigned upload that was under way when its attempt ended is over by then: URLs live 15 minutes."""


async def collect(connection: Connection, queries: Queries, job_id: JobId, prefixes: Iterable[str]) -> None:
    """Has what lies below prefixes of a job collected: at once, and again when no upload to it can be under way."""
    for prefix in prefixes:
        await connection.execute(queries.insert_garbage, job_id, prefix, UPLOAD_MARGIN)


class Garbage:
    """A prefix to empty, and what of it must stay."""

    def __init__(self, prefix: str, kept_names: frozenset[str]) -> None:
        self.prefix = prefix
        self.kept_names = kept_names
        self.is_empty = False
        """Set by the collector once nothing is left to remove."""


class GarbageStore:
    """Objects that nobody needs any more."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[Garbage | None]:
        """Gives one due prefix that nobody else has."""
        async with transaction(self._pool) as connection:
            await connection.execute(self._sql.allow_idle)
            row = await connection.fetchrow(self._sql.lock_due_garbage)
            if row is None:
                yield None
                return
            kept = await self._kept_names(connection, JobId(row["job_id"]))
            garbage = Garbage(row["prefix"], kept)
            yield garbage
            if garbage.is_empty:
                query = self._sql.delete_garbage if row["is_final"] else self._sql.postpone_garbage
                await connection.execute(query, row["id"])

    async def _kept_names(self, connection: Connection, job_id: JobId) -> frozenset[str]:
        rows = await connection.fetch(self._sql.list_referenced_files, job_id)
        kept: set[str] = set()
        for row in rows:
            files = FileSet(AttemptKey(job_id, row["attempt"]), files_from_json(row["files"]), row["step"])
            kept.add(files.manifest_name)
            kept.update(files.object_name(file) for file in files.files)
        return frozenset(kept)
