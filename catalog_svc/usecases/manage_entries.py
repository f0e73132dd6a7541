"""Creates, reads, changes and deletes datasets and models, and sends them to validation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from catalog_svc.clients.scheduler import Scheduler
from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import Entry, EntryChange, EntryDraft, EntryId, EntryKind, Viewer, check_draft
from catalog_svc.domain.errors import EntryInUse
from catalog_svc.domain.model import Model
from catalog_svc.store.entry_store import EntryQuery, EntryStore, Position
from catalog_svc.usecases import audit
from meshkit.ids import new_id


@dataclass(frozen=True, slots=True)
class ManageEntries:
    """All of it checks in the database that the caller may do it; see EntryStore for what is raised."""

    entries: EntryStore
    scheduler: Scheduler
    retention: timedelta
    """How long a deleted entry can be brought back."""
    validation_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Wakes the validators of this process; those of others find the entry by themselves."""

    async def create(self, owner_id: str, draft: EntryDraft, request_id: str) -> Entry:
        """Creates an empty entry that takes files."""
        check_draft(draft)
        entry = await self.entries.create(EntryId(new_id(draft.kind.id_prefix)), owner_id, draft, request_id)
        audit.record("created", owner_id, draft.kind, entry.id)
        return entry

    async def get(self, kind: EntryKind, entry_id: EntryId, viewer: Viewer) -> Dataset | Model:
        """Gets an entry that the viewer may see."""
        return await self.entries.get(kind, entry_id, viewer)

    async def list_page(
        self, kind: EntryKind, user_id: str, query: EntryQuery, after: Position | None, size: int
    ) -> list[Dataset | Model]:
        """Lists what a user may see, newest first."""
        return await self.entries.list_page(kind, user_id, query, after, size)

    async def update(self, kind: EntryKind, entry_id: EntryId, owner_id: str, change: EntryChange) -> Dataset | Model:
        """Changes name, description or visibility."""
        changed = await self.entries.update(kind, entry_id, owner_id, change)
        audit.record("updated", owner_id, kind, entry_id, visibility=changed.entry.visibility.value)
        return changed

    async def delete(self, kind: EntryKind, entry_id: EntryId, owner_id: str, token: str) -> None:
        """Deletes an entry that no live job uses; it can be brought back for a while.

        A job that is submitted in this very moment still finds the content: attempts read deleted entries.

        Raises:
            EntryInUse: a live job uses it.
        """
        await self.entries.check_is_owner(kind, entry_id, owner_id)
        if uses := await self.scheduler.live_uses(entry_id, token):
            raise EntryInUse(kind, uses.job_ids, uses.more, uses.others)
        await self.entries.delete(kind, entry_id, owner_id)
        audit.record("deleted", owner_id, kind, entry_id)

    async def undelete(self, kind: EntryKind, entry_id: EntryId, owner_id: str) -> Dataset | Model:
        """Brings a deleted entry back."""
        found = await self.entries.undelete(kind, entry_id, owner_id, self.retention)
        self.validation_wanted.set()  # it may have been deleted in the middle of one
        audit.record("undeleted", owner_id, kind, entry_id)
        return found

    async def validate(self, kind: EntryKind, entry_id: EntryId, owner_id: str) -> Dataset | Model:
        """Begins a validation and answers at once."""
        begun = await self.entries.begin_validation(kind, entry_id, owner_id)
        self.validation_wanted.set()
        audit.record("validation_begun", owner_id, kind, entry_id)
        return begun
