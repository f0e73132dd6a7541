"""Begins, reads, cancels and follows imports, for their owners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from catalog_svc import metrics
from catalog_svc.clients.scheduler import Scheduler
from catalog_svc.domain.imports import Import, ImportDraft, ImportFailure, ImportId, ImportState, check_import
from catalog_svc.store.change_feed import ChangeFeed
from catalog_svc.store.entry_store import Position
from catalog_svc.store.import_store import ImportStore
from catalog_svc.usecases import audit
from catalog_svc.usecases.follow import follow
from catalog_svc.usecases.open_source import OpenSource
from meshkit.ids import new_id


@dataclass(frozen=True, slots=True)
class ManageImports:
    """All of it checks in the database that the caller may do it; see ImportStore for what is raised."""

    imports: ImportStore
    scheduler: Scheduler
    """Knows the quotas."""
    open_source: OpenSource
    changes: ChangeFeed
    stopping: asyncio.Event
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Wakes the importers of this process; those of others find the import by themselves."""

    async def create(self, owner_id: str, token: str, draft: ImportDraft, request_id: str) -> Import:
        """Begins an import; see check_import, OpenSource and ImportStore.create."""
        check_import(draft)
        self.open_source.check(draft)
        await self.open_source.check_bucket(draft, owner_id)
        allowance = await self.scheduler.allowance(owner_id, token)
        begun = await self.imports.create(ImportId(new_id("imp")), owner_id, draft, request_id, allowance)
        self.wanted.set()
        kind = type(draft.source).__name__
        audit.record("import_begun", owner_id, draft.parent_kind, draft.parent_id, import_id=begun.id, source=kind)
        return begun

    async def get(self, owner_id: str, import_id: ImportId) -> Import:
        """Gets an import."""
        return await self.imports.get(import_id, owner_id)

    async def list_page(self, owner_id: str, parent_id: str, after: Position | None, size: int) -> list[Import]:
        """Lists imports, newest first."""
        return await self.imports.list_page(owner_id, parent_id, after, size)

    async def list_failures(
        self, owner_id: str, import_id: ImportId, after: int, size: int
    ) -> list[tuple[int, ImportFailure]]:
        """Lists what an import gave up, with positions."""
        await self.imports.get(import_id, owner_id)
        return await self.imports.list_failures(import_id, owner_id, after, size)

    async def cancel(self, owner_id: str, import_id: ImportId) -> Import:
        """Ends an import; who works on it finds out when it next reports."""
        cancelled = await self.imports.cancel(import_id, owner_id)
        draft = cancelled.draft
        metrics.IMPORTS.labels("CANCELLED", "").inc()
        audit.record("import_cancelled", owner_id, draft.parent_kind, draft.parent_id, import_id=import_id)
        return cancelled

    def watch(self, owner_id: str, import_id: ImportId) -> AsyncIterator[Import]:
        """Yields an import as it is, after every change, and last when it has ended; see `follow`."""
        return follow(
            import_id,
            lambda: self.imports.get(import_id, owner_id),
            lambda current: current.state is not ImportState.RUNNING,
            changes=self.changes,
            stopping=self.stopping,
        )
