"""Imports in Postgres, and the leases under which they run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from catalog_svc.domain.entry import Action, EntryId, next_state
from catalog_svc.domain.errors import ImportNotFound, LeaseLost, LocationNotFound, RequestIdReused, TooManyImports
from catalog_svc.domain.imports import (
    BucketSource,
    Import,
    ImportCounts,
    ImportDraft,
    ImportFailure,
    ImportId,
    ImportItem,
    ImportState,
    source_from_json,
    source_to_json,
)
from catalog_svc.domain.storage_usage import StorageAllowance
from catalog_svc.store.entry_store import Position, lock_own_entry
from catalog_svc.store.queries import queries
from meshkit.postgres import Pool, transaction

_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
_ITEM_COLUMNS = 6
KEPT_FILES = timedelta(days=7)
"""How long the list of an import's files is kept after its end."""


class ImportStore:
    """Keeps imports. What an owner asks for is checked within the query; who lost the lease changes nothing."""

    def __init__(self, pool: Pool, lease: timedelta, max_running: int) -> None:
        self._pool = pool
        self._lease = lease
        self._max_running = max_running

    async def create(
        self, import_id: ImportId, owner_id: str, draft: ImportDraft, request_id: str, allowance: StorageAllowance
    ) -> Import:
        """Adds an import; a request id that was used before gives the import that it began.

        Raises:
            EntryNotFound, StateConflict: the parent takes no files from this caller.
            LocationNotFound: the storage location is not the owner's.
            RequestIdReused: the request id came with another draft.
            TooManyImports: the owner has as many running as the operator allows.
        """
        location_id = draft.source.location_id if isinstance(draft.source, BucketSource) else None
        async with transaction(self._pool) as connection:
            if request_id:
                row = await connection.fetchrow(queries().find_import_request, owner_id, request_id)
                if row is not None:
                    return _first_answer(row, draft)
            entry = await lock_own_entry(connection, draft.parent_kind, draft.parent_id, owner_id)
            next_state(entry.kind, entry.state, Action.CHANGE_FILES)
            if location_id and await connection.fetchval(queries().lock_location, location_id, owner_id) is None:
                raise LocationNotFound
            if await connection.fetchval(queries().count_running_imports, owner_id) >= self._max_running:
                raise TooManyImports(self._max_running)
            row = await connection.fetchrow(
                queries().insert_import,
                import_id,
                owner_id,
                draft.parent_id,
                source_to_json(draft.source),
                location_id,
                request_id or None,
                draft.digest(),
                allowance.limit_bytes,
                allowance.used_elsewhere_bytes,
            )
            if row is None:  # the same request at the same time
                row = await connection.fetchrow(queries().find_import_request, owner_id, request_id)
                assert row is not None
                return _first_answer(row, draft)
        return import_from_row(row)

    async def get(self, import_id: ImportId, owner_id: str) -> Import:
        """Gets an import; raises ImportNotFound."""
        row = await self._pool.fetchrow(queries().get_import, import_id, owner_id)
        if row is None:
            raise ImportNotFound
        return import_from_row(row)

    async def list_page(self, owner_id: str, parent_id: str, after: Position | None, size: int) -> list[Import]:
        """Lists an owner's imports, newest first: at most `size` after a position, of one parent or of all (empty)."""
        create_time, last_id = after or (_END_OF_TIME, "")
        rows = await self._pool.fetch(queries().list_imports, owner_id, create_time, last_id, parent_id, size)
        return [import_from_row(row) for row in rows]

    async def list_failures(
        self, import_id: ImportId, owner_id: str, after: int, size: int
    ) -> list[tuple[int, ImportFailure]]:
        """Lists what was given up, with positions: at most `size` after a position."""
        rows = await self._pool.fetch(queries().list_import_failures, import_id, owner_id, after, size)
        return [
            (row["position"], ImportFailure(row["path"], row["location"], row["reason"], row["message"]))
            for row in rows
        ]

    async def cancel(self, import_id: ImportId, owner_id: str) -> Import:
        """Ends an import unless it has ended; raises ImportNotFound."""
        await self._pool.execute(queries().cancel_import, import_id, owner_id)
        return await self.get(import_id, owner_id)

    async def claim(self, token: str) -> Import | None:
        """Leases the running import that has waited longest; None if nothing waits."""
        row = await self._pool.fetchrow(queries().claim_import, token, self._lease)
        return None if row is None else import_from_row(row)

    async def renew(self, import_id: ImportId, token: str) -> None:
        """Extends the lease; raises LeaseLost, also once the import is cancelled or its parent is gone."""
        if await self._pool.fetchval(queries().renew_import, import_id, token, self._lease) is None:
            raise LeaseLost(import_id)

    async def release(self, import_id: ImportId, token: str, pause: timedelta, *, is_failure: bool = False) -> None:
        """Gives the lease back; the import is taken up again after the pause. Failures are counted."""
        await self._pool.execute(queries().release_import, import_id, token, pause, int(is_failure))

    async def pin_commit(self, import_id: ImportId, token: str, commit: str) -> str:
        """Notes what a revision stands for, unless it is noted already; returns what counts. Raises LeaseLost."""
        settled = await self._pool.fetchval(queries().set_import_commit, import_id, token, commit)
        if settled is None:
            raise LeaseLost(import_id)
        return str(settled)

    async def add_items(self, import_id: ImportId, token: str, items: Sequence[ImportItem]) -> None:
        """Adds files of the source that are not known yet; raises LeaseLost."""
        columns: list[list[Any]] = [[] for _ in range(_ITEM_COLUMNS)]
        for item in items:
            values = (item.path, item.location, item.size_bytes, item.etag, item.fault, item.message)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        async with transaction(self._pool) as connection:
            if await connection.fetchval(queries().lock_import, import_id, token) is None:
                raise LeaseLost(import_id)
            await connection.execute(queries().add_import_files, import_id, *columns)

    async def set_listed(self, import_id: ImportId, token: str) -> None:
        """Notes that all files are known; raises LeaseLost."""
        if await self._pool.fetchval(queries().set_import_listed, import_id, token) is None:
            raise LeaseLost(import_id)

    async def next_items(self, import_id: ImportId, after: int, size: int) -> list[tuple[int, ImportItem]]:
        """Lists files that are still to be fetched, with positions: at most `size` after a position."""
        rows = await self._pool.fetch(queries().next_import_files, import_id, after, size)
        return [
            (row["position"], ImportItem(row["path"], row["location"], row["size_bytes"], row["etag"])) for row in rows
        ]

    async def end_item(
        self, import_id: ImportId, token: str, path: str, size_bytes: int | None, reason: str = "", message: str = ""
    ) -> None:
        """Notes that a file is in place, or with a reason that it is given up; raises LeaseLost."""
        state = "FAILED" if reason else "DONE"
        async with transaction(self._pool) as connection:
            if await connection.fetchval(queries().lock_import, import_id, token) is None:
                raise LeaseLost(import_id)
            await connection.execute(
                queries().end_import_file, import_id, path, state, reason, message[:1000], size_bytes
            )

    async def end(
        self, import_id: ImportId, token: str, state: ImportState, reason: str = "", message: str = ""
    ) -> None:
        """Ends an import; raises LeaseLost."""
        ended = await self._pool.fetchval(queries().end_import, import_id, token, state, reason, message[:1000])
        if ended is None:
            raise LeaseLost(import_id)

    async def forget_files(self) -> None:
        """Forgets the lists of files of imports that ended long ago."""
        await self._pool.execute(queries().forget_import_files, KEPT_FILES)


def import_from_row(row: Any) -> Import:
    """Reads a row of `imports`."""
    return Import(
        id=ImportId(row["id"]),
        owner_id=row["owner_id"],
        draft=ImportDraft(EntryId(row["entry_id"]), source_from_json(row["source"])),
        state=ImportState(row["state"]),
        counts=ImportCounts(
            files=row["files"],
            files_done=row["files_done"],
            files_failed=row["files_failed"],
            bytes=row["bytes"],
            bytes_done=row["bytes_done"],
            is_listed=row["is_listed"],
        ),
        allowance=StorageAllowance(row["limit_bytes"], row["used_elsewhere_bytes"]),
        error_reason=row["error_reason"],
        error_message=row["error_message"],
        commit=row["commit_sha"],
        failures=row["failures"],
        create_time=row["create_time"],
        end_time=row["end_time"],
    )


def _first_answer(row: Any, draft: ImportDraft) -> Import:
    if row["digest"] != draft.digest():
        raise RequestIdReused
    return import_from_row(row)
