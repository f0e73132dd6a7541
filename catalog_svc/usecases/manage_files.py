"""Lists and removes the files of datasets and models."""

from __future__ import annotations

from dataclasses import dataclass

from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.domain.upload import StoredFile
from catalog_svc.store.entry_store import EntryStore
from catalog_svc.store.file_store import FileStore
from catalog_svc.usecases import audit


@dataclass(frozen=True, slots=True)
class ManageFiles:
    """Files, for the owner of their parent."""

    files: FileStore
    entries: EntryStore

    async def list_page(
        self, kind: EntryKind, entry_id: EntryId, owner_id: str, after: str, size: int
    ) -> list[StoredFile]:
        """Lists files by path; raises EntryNotFound."""
        await self.entries.check_is_owner(kind, entry_id, owner_id)
        return await self.files.list_page(entry_id, owner_id, after, size)

    async def delete(self, kind: EntryKind, entry_id: EntryId, owner_id: str, path: str) -> None:
        """Removes a file; see FileStore."""
        gone = await self.files.delete(kind, entry_id, owner_id, path)
        audit.record("file_deleted", owner_id, kind, entry_id, path=path, sha256=gone.sha256)
