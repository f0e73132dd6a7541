"""Counts what waits for the catalog's own work."""

from __future__ import annotations

from collections.abc import Sequence

from catalog_svc.domain.entry import EntryKind
from catalog_svc.store.queries import queries
from meshkit.postgres import Pool
from meshkit.telemetry.census import Reading

_SECONDS = 5.0
"""A count that takes longer is not worth it."""


class CensusStore:
    """Reads gauges; each query walks an index of what is unfinished only."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def count(self) -> Sequence[Reading]:
        """Returns everything that is counted; what there is none of is told as 0, not left out."""
        processing = await self._pool.fetch(queries().count_processing, timeout=_SECONDS)
        backlog = await self._pool.fetchrow(queries().count_catalog_backlog, timeout=_SECONDS)
        assert backlog is not None
        nothing: dict[tuple[str, ...], float] = {(kind.noun,): 0 for kind in EntryKind}
        found = {(EntryKind(row["kind"]).noun,): row for row in processing}
        return [
            Reading(
                "reeltune_catalog_validations_waiting",
                "Datasets and models that are being validated, or wait for it",
                ("kind",),
                nothing | {kind: row["entries"] for kind, row in found.items()},
            ),
            Reading(
                "reeltune_catalog_validations_oldest_age_seconds",
                "How long the oldest of them has waited; 0 when there is none",
                ("kind",),
                nothing | {kind: row["oldest_seconds"] for kind, row in found.items()},
            ),
            Reading("reeltune_catalog_imports", "Imports that have not ended", (), {(): backlog["imports"]}),
            Reading("reeltune_catalog_garbage_due", "Pieces of garbage to be removed", (), {(): backlog["garbage"]}),
            Reading(
                "reeltune_catalog_garbage_oldest_age_seconds",
                "How long the oldest of them has been due",
                (),
                {(): backlog["oldest_seconds"]},
            ),
        ]
