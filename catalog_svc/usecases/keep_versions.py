"""New versions of datasets, and datasets that go on without what is wrong in them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import Action, EntryId, EntryKind, Viewer, next_state
from catalog_svc.domain.quarantine import QuarantinedItem, all_with_errors, chosen
from catalog_svc.store.dataset_store import DatasetStore
from catalog_svc.store.entry_store import EntryStore
from catalog_svc.store.file_store import FileStore
from catalog_svc.store.version_store import VersionStore
from catalog_svc.usecases import audit
from meshkit.ids import new_id

_KIND = EntryKind.DATASET


@dataclass(frozen=True, slots=True)
class KeepVersions:
    """All of it checks in the database that the caller may do it; see VersionStore for what is raised."""

    versions: VersionStore
    entries: EntryStore
    files: FileStore
    datasets: DatasetStore
    validation_wanted: asyncio.Event

    async def create(self, base_id: EntryId, owner_id: str, request_id: str) -> Dataset:
        """Makes a new version of a READY dataset."""
        made = await self.versions.create(EntryId(new_id(_KIND.id_prefix)), base_id, owner_id, request_id)
        audit.record("version_created", owner_id, _KIND, made.entry.id, base=base_id)
        return made

    async def list_page(self, dataset_id: EntryId, user_id: str, below: int, size: int) -> list[Dataset]:
        """Lists the versions that a user may see of a dataset that they may see."""
        await self.entries.get(_KIND, dataset_id, Viewer(user_id))
        return await self.versions.list_page(dataset_id, user_id, below, size)

    async def quarantine(self, dataset_id: EntryId, owner_id: str, places: Sequence[tuple[str, int]]) -> Dataset:
        """Leaves these rows and clips out, given as (file, row), or all that have errors, and validates anew.

        Raises:
            NotQuarantinable: an error concerns more than a row or a clip.
            InvalidField: a place is none that can be left out.
        """
        await self.entries.check_is_owner(_KIND, dataset_id, owner_id)
        dataset = await self.entries.get(_KIND, dataset_id, Viewer(owner_id))
        assert isinstance(dataset, Dataset)
        next_state(_KIND, dataset.entry.state, Action.QUARANTINE)
        files = {file.path: file for file in await self.files.list_all(dataset_id)}
        issues = await self.datasets.list_all_issues(dataset_id)
        format_ = dataset.findings.annotation_format
        items = chosen(places, issues, files, format_) if places else all_with_errors(issues, files, format_)
        begun = await self.versions.quarantine(dataset.entry, owner_id, items)
        self.validation_wanted.set()
        audit.record("quarantined", owner_id, _KIND, dataset_id, items=len(items))
        return begun

    async def list_quarantine(
        self, dataset_id: EntryId, owner_id: str, after: tuple[str, int], size: int
    ) -> list[QuarantinedItem]:
        """Lists what a dataset goes without."""
        await self.entries.check_is_owner(_KIND, dataset_id, owner_id)
        return await self.versions.list_quarantine(dataset_id, owner_id, after, size)
