"""Versions of datasets, and what they go without, in Postgres."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import Action, Entry, EntryId, EntryKind, next_state
from catalog_svc.domain.errors import EntryNotFound, RequestIdReused
from catalog_svc.domain.quarantine import QuarantinedItem
from catalog_svc.store.entry_store import begin_validation, lock_lineage, lock_own_entry
from catalog_svc.store.queries import queries
from catalog_svc.store.rows import described_from_row, quarantined_from_row
from meshkit.postgres import Connection, Pool, transaction

_KIND = EntryKind.DATASET


class VersionStore:
    """Makes and lists versions. Every method checks within its query that the caller may do it; else EntryNotFound."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, new_id: EntryId, base_id: EntryId, owner_id: str, request_id: str) -> Dataset:
        """Makes the next version of a READY dataset, with the same files; a request id used before gives the same one.

        Raises:
            StateConflict: the base is not READY.
            RequestIdReused: the request id came with another request.
        """
        async with transaction(self._pool) as connection:
            if request_id:
                digest = hashlib.sha256(f"version\0{base_id}".encode()).hexdigest()
                row = (owner_id, request_id, digest, new_id)
                if await connection.fetchval(queries().remember_request, *row) is None:
                    return await _first_answer(connection, owner_id, request_id, digest)
            await lock_lineage(connection, _KIND, base_id, owner_id)
            # Locked, so that none of its files, and so none of their objects, goes before the copies are there.
            base = await lock_own_entry(connection, _KIND, base_id, owner_id)
            next_state(_KIND, base.state, Action.MAKE_VERSION)
            await connection.execute(queries().insert_version, new_id, base_id)
            await connection.execute(queries().copy_files, new_id, base_id)
            await connection.execute(queries().copy_probes, new_id, base_id)
            await connection.execute(queries().copy_quarantine, new_id, base_id)
            return await _get(connection, new_id, owner_id)

    async def list_page(self, dataset_id: EntryId, user_id: str, below: int, size: int) -> list[Dataset]:
        """Lists versions that a user may see, newest first: at most `size` below a number."""
        rows = await self._pool.fetch(queries().list_versions, dataset_id, user_id, below, size)
        return [_dataset(described_from_row(row)) for row in rows]

    async def quarantine(self, dataset: Entry, owner_id: str, items: Sequence[QuarantinedItem]) -> Dataset:
        """Adds to what a dataset in ERROR goes without, and sends it to the validators.

        Raises:
            StateConflict: it is not in ERROR, or no longer the one that the items were chosen from.
        """
        async with transaction(self._pool) as connection:
            current = await lock_own_entry(connection, _KIND, dataset.id, owner_id)
            next_state(_KIND, current.state, Action.QUARANTINE)
            columns = zip(
                *((item.file, item.row, item.sha256, item.reason, item.message) for item in items), strict=True
            )
            await connection.execute(queries().put_quarantine, dataset.id, *(list(column) for column in columns))
            await connection.execute(queries().drop_stale_quarantine, dataset.id)
            await begin_validation(connection, current)
            return await _get(connection, dataset.id, owner_id)

    async def list_quarantine(
        self, dataset_id: EntryId, owner_id: str, after: tuple[str, int], size: int
    ) -> list[QuarantinedItem]:
        """Lists what an owner's dataset goes without: at most `size` after a file and row."""
        rows = await self._pool.fetch(queries().list_quarantine, dataset_id, owner_id, *after, size)
        return [quarantined_from_row(row) for row in rows]


async def _first_answer(connection: Connection, owner_id: str, request_id: str, digest: str) -> Dataset:
    row = await connection.fetchrow(queries().find_request, owner_id, request_id)
    if row is None or row["digest"] != digest:
        raise RequestIdReused
    return await _get(connection, EntryId(row["entry_id"]), owner_id)


async def _get(connection: Connection, dataset_id: EntryId, owner_id: str) -> Dataset:
    row = await connection.fetchrow(queries().get_entry, dataset_id, _KIND, owner_id, None)
    if row is None:
        raise EntryNotFound(_KIND)
    return _dataset(described_from_row(row))


def _dataset(found: object) -> Dataset:
    assert isinstance(found, Dataset)
    return found
