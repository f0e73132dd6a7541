"""Describes what READY datasets hold, in numbers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from catalog_svc.domain.entry import EntryId, EntryKind, EntryState, Viewer
from catalog_svc.domain.errors import StateConflict
from catalog_svc.domain.statistics import DatasetStatistics, describe
from catalog_svc.domain.visual_tokens import VisualSampling
from catalog_svc.store.entry_store import EntryStore
from catalog_svc.store.statistics_store import StatisticsStore


@dataclass(frozen=True, slots=True)
class DescribeDataset:
    """Makes statistics."""

    entries: EntryStore
    statistics: StatisticsStore

    async def describe(self, dataset_id: EntryId, viewer: Viewer, sampling: VisualSampling) -> DatasetStatistics:
        """Returns the numbers of a dataset.

        Raises:
            EntryNotFound: the viewer may not see it.
            StateConflict: it is not READY.
        """
        state = (await self.entries.get(EntryKind.DATASET, dataset_id, viewer)).entry.state
        if state is not EntryState.READY:
            raise StateConflict(EntryKind.DATASET.value, state.value, (EntryState.READY.value,))
        numbers = await self.statistics.numbers(dataset_id, viewer)
        # Off the event loop: there may be hundreds of thousands of rows.
        return await asyncio.to_thread(describe, numbers, sampling)
