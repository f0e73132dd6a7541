"""Entries in Postgres: datasets and models, for those who may see or change them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from catalog_svc.domain.clip import TRANSIENT_FAULTS
from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import (
    Action,
    Entry,
    EntryChange,
    EntryDraft,
    EntryId,
    EntryKind,
    EntryState,
    Viewer,
    Visibility,
    check_change,
    next_state,
)
from catalog_svc.domain.errors import EntryExists, EntryNotFound, ImportRunning, RequestIdReused
from catalog_svc.domain.model import Model
from catalog_svc.domain.upload import LATE_LOOK
from catalog_svc.store.queries import queries
from catalog_svc.store.rows import described_from_row, entry_from_row
from meshkit.postgres import Connection, Pool, transaction

Position = tuple[datetime, str]
"""Where a page of a list starts: the create time and id of the last entry before it."""


_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class EntryQuery:
    """Which entries to list; all conditions must hold. Names are compared without regard to case."""

    name_like: Sequence[str] = ()
    """Patterns of SQL's LIKE, in lower case."""
    name_unlike: Sequence[str] = ()
    states: Collection[EntryState] = tuple(EntryState)
    visibilities: Collection[Visibility] = tuple(Visibility)
    owner_ids: Sequence[str] = ()
    """The owner must equal each of these."""
    other_owner_ids: Sequence[str] = ()
    """The owner must differ from each of these."""
    show_deleted: bool = False
    """The user's own deleted ones as well."""


class EntryStore:
    """Keeps entries. Every method checks within its query that the caller may do it; else it raises EntryNotFound."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, entry_id: EntryId, owner_id: str, draft: EntryDraft, request_id: str) -> Entry:
        """Adds an entry; a request id that was used before gives the entry as it was first answered.

        Raises:
            EntryExists: the owner has one of that name.
            RequestIdReused: the request id came with another draft.
        """
        async with transaction(self._pool) as connection:
            if request_id:
                claimed = await connection.fetchval(
                    queries().remember_request, owner_id, request_id, draft.digest(), entry_id
                )
                if claimed is None:
                    return await _first_answer(connection, owner_id, draft, request_id)
            return await _insert(connection, entry_id, owner_id, draft)

    async def get(self, kind: EntryKind, entry_id: EntryId, viewer: Viewer) -> Dataset | Model:
        """Gets an entry that the viewer may see, with what validation found."""
        row = await self._pool.fetchrow(queries().get_entry, entry_id, kind, viewer.user_id, viewer.granted_id)
        if row is None:
            raise EntryNotFound(kind)
        return described_from_row(row)

    async def list_page(
        self, kind: EntryKind, user_id: str, query: EntryQuery, after: Position | None, size: int
    ) -> list[Dataset | Model]:
        """Lists what a user may see, newest first: at most `size` entries after a position."""
        create_time, last_id = after or (_END_OF_TIME, "")
        rows = await self._pool.fetch(
            queries().list_entries,
            kind,
            user_id,
            create_time,
            last_id,
            list(query.name_like),
            list(query.name_unlike),
            list(query.states),
            list(query.visibilities),
            list(query.owner_ids),
            list(query.other_owner_ids),
            size,
            query.show_deleted,
        )
        return [described_from_row(row) for row in rows]

    async def update(self, kind: EntryKind, entry_id: EntryId, owner_id: str, change: EntryChange) -> Dataset | Model:
        """Changes what an owner may change.

        Raises:
            EtagMismatch: the entry is not the one that the change was meant for.
            EntryExists: the owner has another of that name.
            InvalidField: a new value cannot be kept.
        """
        async with transaction(self._pool) as connection:
            lineage_id = await lock_lineage(connection, kind, entry_id, owner_id)
            if change.name is not None:
                await claim_name(connection, kind, owner_id, change.name, lineage_id)
            entry = await lock_own_entry(connection, kind, entry_id, owner_id)
            check_change(entry, change)
            await connection.execute(
                queries().update_entry, entry_id, change.name, change.description, change.visibility
            )
            if change.name is not None:
                await connection.execute(queries().rename_lineage, lineage_id, entry_id, change.name)
            row = await connection.fetchrow(queries().get_entry, entry_id, kind, owner_id, None)
        assert row is not None
        return described_from_row(row)

    async def check_is_owner(self, kind: EntryKind, entry_id: EntryId, owner_id: str) -> None:
        """Raises EntryNotFound unless the entry is this owner's."""
        async with transaction(self._pool) as connection:
            await lock_own_entry(connection, kind, entry_id, owner_id)

    async def delete(self, kind: EntryKind, entry_id: EntryId, owner_id: str) -> None:
        """Hides an entry from all but the attempts with a grant for it; it can be brought back until it is purged."""
        async with transaction(self._pool) as connection:
            await lock_own_entry(connection, kind, entry_id, owner_id)
            await connection.execute(queries().discard_uploads_of_entry, entry_id, LATE_LOOK)
            await connection.execute(queries().hide_entry, entry_id)

    async def undelete(
        self, kind: EntryKind, entry_id: EntryId, owner_id: str, retention: timedelta
    ) -> Dataset | Model:
        """Brings a deleted entry back; one that is not deleted is simply returned.

        Raises:
            EntryNotFound: it is not there, or was deleted longer than `retention` ago.
            EntryExists: the owner has another of its name by now.
        """
        async with transaction(self._pool) as connection:
            lineage_id = await lock_lineage(connection, kind, entry_id, owner_id)
            row = await connection.fetchrow(queries().lock_hidden_entry, entry_id, kind, owner_id, retention)
            if row is not None:
                await claim_name(connection, kind, owner_id, row["name"], lineage_id)
                await connection.execute(queries().show_entry, entry_id)
            found = await connection.fetchrow(queries().get_entry, entry_id, kind, owner_id, None)
        if found is None:
            raise EntryNotFound(kind)
        return described_from_row(found)

    async def purge_one(self, retention: timedelta) -> EntryId | None:
        """Removes one entry that was deleted longer than `retention` ago, with all its rows; its objects follow."""
        async with transaction(self._pool) as connection:
            entry_id = await connection.fetchval(queries().lock_expired_entry, retention)
            if entry_id is None:
                return None
            await connection.execute(queries().discard_files_of_entry, entry_id)
            await connection.execute(queries().discard_uploads_of_entry, entry_id, LATE_LOOK)
            await connection.execute(queries().delete_entry, entry_id)
        return EntryId(entry_id)

    async def begin_validation(self, kind: EntryKind, entry_id: EntryId, owner_id: str) -> Dataset | Model:
        """Sends an entry to the validators.

        Raises:
            StateConflict: it is neither PENDING nor in ERROR.
            ImportRunning: files are still coming.
        """
        async with transaction(self._pool) as connection:
            entry = await lock_own_entry(connection, kind, entry_id, owner_id)
            next_state(kind, entry.state, Action.VALIDATE)
            await begin_validation(connection, entry)
            row = await connection.fetchrow(queries().get_entry, entry_id, kind, owner_id, None)
        assert row is not None
        return described_from_row(row)

    async def forget_requests(self, age: timedelta) -> None:
        """Forgets request ids that are older."""
        await self._pool.execute(queries().delete_old_requests, age)


async def lock_own_entry(connection: Connection, kind: EntryKind, entry_id: EntryId, owner_id: str) -> Entry:
    """Gets an entry for its owner, and keeps others from changing it in this transaction; raises EntryNotFound."""
    row = await connection.fetchrow(queries().lock_own_entry, entry_id, kind, owner_id)
    if row is None:
        raise EntryNotFound(kind)
    return entry_from_row(row)


async def lock_lineage(connection: Connection, kind: EntryKind, entry_id: EntryId, owner_id: str) -> EntryId:
    """Has those who name or number the versions of an entry take turns; goes before the lock on any of their rows."""
    lineage_id = await connection.fetchval(queries().find_lineage, entry_id, kind, owner_id)
    if lineage_id is None:
        raise EntryNotFound(kind)
    await connection.execute(queries().lock_lineage, lineage_id)
    return EntryId(lineage_id)


async def claim_name(connection: Connection, kind: EntryKind, owner_id: str, name: str, lineage_id: EntryId) -> None:
    """Keeps a name for a lineage until the transaction ends; raises EntryExists."""
    # A name that cannot be kept is refused later; until then no query may see what Postgres cannot take.
    if "\0" in name:
        return
    await connection.execute(queries().lock_name, owner_id, kind.value, name)
    if await connection.fetchval(queries().is_name_taken, owner_id, kind, name, lineage_id):
        raise EntryExists(kind, name)


async def _insert(connection: Connection, entry_id: EntryId, owner_id: str, draft: EntryDraft) -> Entry:
    await claim_name(connection, draft.kind, owner_id, draft.name, entry_id)
    row = await connection.fetchrow(
        queries().insert_entry, entry_id, draft.kind, owner_id, draft.name, draft.description, draft.visibility
    )
    assert row is not None
    return entry_from_row(row)


async def _first_answer(connection: Connection, owner_id: str, draft: EntryDraft, request_id: str) -> Entry:
    """Makes the first answer again: a new entry is what its draft says, whatever has become of it since."""
    row = await connection.fetchrow(queries().find_request, owner_id, request_id)
    if row is None or row["digest"] != draft.digest():
        raise RequestIdReused
    return new_entry(EntryId(row["entry_id"]), owner_id, draft, row["create_time"])


def new_entry(entry_id: EntryId, owner_id: str, draft: EntryDraft, create_time: datetime) -> Entry:
    """Returns an entry as it is in the moment of its creation."""
    return Entry(
        id=entry_id,
        kind=draft.kind,
        owner_id=owner_id,
        name=draft.name,
        description=draft.description,
        visibility=draft.visibility,
        state=EntryState.PENDING,
        revision=1,
        file_count=0,
        size_bytes=0,
        create_time=create_time,
        update_time=create_time,
        version=1,
        lineage_id=entry_id,
        base_id=None,
        delete_time=None,
    )


async def begin_validation(connection: Connection, entry: Entry) -> None:
    """Sends an entry to the validators, without what the validation before found; raises ImportRunning."""
    if await connection.fetchval(queries().is_import_running, entry.id):
        raise ImportRunning(entry.kind)
    await _forget_findings(connection, entry)
    await connection.execute(queries().begin_validation, entry.id)


async def _forget_findings(connection: Connection, entry: Entry) -> None:
    if entry.kind is EntryKind.MODEL:
        await connection.execute(queries().reset_model_findings, entry.id)
        return
    await connection.execute(queries().reset_findings, entry.id)
    await connection.execute(queries().delete_issues, entry.id)
    await connection.execute(queries().delete_transient_probes, entry.id, [fault.value for fault in TRANSIENT_FAULTS])
