"""Numbers of datasets, counted by Postgres."""

from __future__ import annotations

from catalog_svc.domain.entry import EntryId, Viewer
from catalog_svc.domain.sample import VideoPart
from catalog_svc.domain.statistics import DatasetNumbers, ShownClips
from catalog_svc.store.queries import queries
from catalog_svc.store.rows import decoded_from_row
from meshkit.postgres import Pool


class StatisticsStore:
    """Counts; every query checks within itself what the viewer may see."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def numbers(self, dataset_id: EntryId, viewer: Viewer) -> DatasetNumbers:
        """Counts rows and clips of a READY dataset."""
        who = (dataset_id, viewer.user_id, viewer.granted_id)
        splits = await self._pool.fetch(queries().count_rows_by_split, *who)
        answers = await self._pool.fetch(queries().count_rows_by_answer, *who)
        shown = await self._pool.fetch(queries().count_rows_by_clips, *who)
        clips = await self._pool.fetch(queries().list_clip_sizes, *who)
        return DatasetNumbers(
            splits={row["split"]: row["count"] for row in splits},
            answer_characters={row["characters"]: row["count"] for row in answers},
            clips={row["path"]: decoded_from_row(row) for row in clips},
            shown=tuple(ShownClips(tuple(VideoPart(**part) for part in row["videos"]), row["count"]) for row in shown),
        )
