"""Numbers of datasets, counted by Postgres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from catalog_svc.domain.entry import EntryId, Viewer
from catalog_svc.domain.row_shapes import ShownClips
from catalog_svc.domain.sample import VideoPart
from catalog_svc.domain.statistics import MOST_SPLITS, MOST_TAGS, DatasetNumbers
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
        splits = await self._pool.fetch(queries().count_rows_by_split, *who, MOST_SPLITS)
        answers = await self._pool.fetch(queries().count_rows_by_answer, *who)
        shown = await self._pool.fetch(queries().count_rows_by_clips, *who)
        clips = await self._pool.fetch(queries().list_clip_sizes, *who)
        tags = await self._pool.fetch(queries().count_rows_by_tag, *who, MOST_TAGS)
        return DatasetNumbers(
            splits={row["split"]: row["count"] for row in splits},
            answer_characters=_counted((row["characters"], row["count"]) for row in answers),
            text_characters=_counted((row["text_characters"], row["count"]) for row in answers),
            clips={row["path"]: decoded_from_row(row) for row in clips},
            shown=tuple(_shown_clips(row) for row in shown),
            used_answers=_counted((row["characters"], row["used"]) for row in answers),
            used_text=_counted((row["text_characters"], row["used"]) for row in answers),
            tags=tuple((row["tag"], row["count"]) for row in tags),
            tag_count=tags[0]["tag_count"] if tags else 0,
        )


def _counted(pairs: Iterable[tuple[float, int]]) -> Mapping[float, int]:
    counts: Counter[float] = Counter()
    for value, count in pairs:
        counts[value] += count
    return counts


def _shown_clips(row: Any) -> ShownClips:
    videos = tuple(VideoPart(**part) for part in row["videos"])
    return ShownClips(videos, row["count"], row["sample_id"], unused=row["count"] - row["used"])
