"""What validation finds in datasets, in Postgres."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import asyncpg

from catalog_svc.domain.clip import Clip, DecodedClip, FaultyClip, ProbeOutcome
from catalog_svc.domain.dataset import DatasetFindings
from catalog_svc.domain.dataset_check import DatasetVerdict
from catalog_svc.domain.entry import EntryId, Viewer
from catalog_svc.domain.errors import LeaseLost
from catalog_svc.domain.formats.tags import SEPARATOR
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.quarantine import QuarantinedItem
from catalog_svc.domain.sample import Sample, SampleText
from catalog_svc.store.queries import queries
from catalog_svc.store.rows import (
    clip_from_row,
    hash_to_column,
    issue_from_row,
    outcome_from_row,
    quarantined_from_row,
    sample_from_row,
)
from meshkit.postgres import Connection, Pool

_BATCH = 2000
_T = TypeVar("_T")


class DatasetStore:
    """Keeps probes, issues, samples and clips; reading checks within the query what the viewer may see."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list_probes(self, dataset_id: EntryId) -> dict[str, ProbeOutcome]:
        """Returns what decoding has found so far, by SHA-256."""
        rows = await self._pool.fetch(queries().list_probes, dataset_id)
        return {row["sha256"]: outcome_from_row(row) for row in rows}

    async def put_probes(self, dataset_id: EntryId, outcomes: Mapping[str, ProbeOutcome]) -> None:
        """Keeps what decoding found, by SHA-256; raises LeaseLost if the dataset is gone.

        It is progress: failures of the validation count anew.
        """
        columns = zip(*(_probe_columns(sha256, outcome) for sha256, outcome in outcomes.items()), strict=True)
        try:
            await self._pool.execute(queries().put_probes, dataset_id, *(list(column) for column in columns))
        except asyncpg.ForeignKeyViolationError as error:
            raise LeaseLost(dataset_id) from error
        await self._pool.execute(queries().forget_validation_failures, dataset_id)

    async def set_progress(self, dataset_id: EntryId, clips: int, checked: int, duration_seconds: float) -> None:
        """Notes how far a validation has come; watchers are told."""
        await self._pool.execute(queries().set_progress, dataset_id, clips, checked, duration_seconds)

    async def list_issues(self, dataset_id: EntryId, viewer: Viewer, after: int, size: int) -> list[tuple[int, Issue]]:
        """Lists issues with their positions: at most `size` after a position."""
        rows = await self._pool.fetch(queries().list_issues, dataset_id, viewer.user_id, viewer.granted_id, after, size)
        return [(row["position"], issue_from_row(row)) for row in rows]

    async def list_all_issues(self, dataset_id: EntryId) -> list[Issue]:
        """Lists all stored issues of a dataset, for its owner."""
        rows = await self._pool.fetch(queries().list_issues, dataset_id, None, dataset_id, 0, None)
        return [issue_from_row(row) for row in rows]

    async def load_quarantine(self, dataset_id: EntryId) -> list[QuarantinedItem]:
        """Lists all that a dataset goes without, for those who validate it."""
        rows = await self._pool.fetch(queries().list_whole_quarantine, dataset_id)
        return [quarantined_from_row(row) for row in rows]

    async def list_samples(
        self, dataset_id: EntryId, viewer: Viewer, after: int, size: int, split: str = "", tag: str = ""
    ) -> list[tuple[int, Sample]]:
        """Lists samples with their positions: at most `size` after a position, of one split or of all (empty), and with
        one tag or with any or none (empty)."""
        rows = await self._pool.fetch(
            queries().list_samples, dataset_id, viewer.user_id, viewer.granted_id, after, split, size, tag
        )
        return [(row["position"], sample_from_row(row)) for row in rows]

    async def find_sample(self, dataset_id: EntryId, viewer: Viewer, sample_id: str) -> Sample | None:
        """Finds a sample of a READY dataset by its id."""
        row = await self._pool.fetchrow(queries().find_sample, dataset_id, viewer.user_id, viewer.granted_id, sample_id)
        return None if row is None else sample_from_row(row)

    async def list_clips(self, dataset_id: EntryId, viewer: Viewer, after: str, size: int) -> list[Clip]:
        """Lists clips by path: at most `size` after a path."""
        rows = await self._pool.fetch(queries().list_clips, dataset_id, viewer.user_id, viewer.granted_id, after, size)
        return [clip_from_row(row) for row in rows]

    async def find_clips(self, dataset_id: EntryId, viewer: Viewer, paths: Sequence[str]) -> dict[str, Clip]:
        """Finds clips by path."""
        rows = await self._pool.fetch(queries().find_clips, dataset_id, viewer.user_id, viewer.granted_id, list(paths))
        return {row["path"]: clip_from_row(row) for row in rows}


async def put_verdict(
    connection: Connection, dataset_id: EntryId, verdict: DatasetVerdict, samples: Iterable[SampleText]
) -> None:
    """Replaces what the validation before found; part of the transaction that ends a validation."""
    await connection.execute(queries().delete_issues, dataset_id)
    await connection.execute(queries().delete_samples, dataset_id)
    for first, issues in _batches(verdict.issues):
        columns = zip(*(_issue_columns(position, found) for position, found in enumerate(issues, first)), strict=True)
        await connection.execute(queries().insert_issues, dataset_id, *(list(column) for column in columns))
    for first, batch in _batches(samples):
        rows = zip(*(_sample_columns(position, sample) for position, sample in enumerate(batch, first)), strict=True)
        await connection.execute(queries().insert_samples, dataset_id, *(list(column) for column in rows))
    await connection.execute(queries().set_findings, dataset_id, *_findings_columns(verdict.findings))


def _batches(values: Iterable[_T]) -> Iterator[tuple[int, Sequence[_T]]]:
    """Yields stretches that one statement can take, each with its first position, counted from 1."""
    rest, first = iter(values), 1
    while batch := list(islice(rest, _BATCH)):
        yield first, batch
        first += len(batch)


def _probe_columns(sha256: str, outcome: ProbeOutcome) -> tuple[object, ...]:
    if isinstance(outcome, FaultyClip):
        return (
            sha256, outcome.fault.value, outcome.detail, 0, 0.0, 0.0, 0, 0, "", 0,
            "", False, 0, False, None, True, False, False,
        )  # fmt: skip
    clip: DecodedClip = outcome
    return (
        sha256, None, "", clip.frame_count, clip.duration_seconds, clip.fps, clip.width, clip.height, clip.codec,
        clip.damaged_frames, clip.decoder, clip.is_variable_frame_rate, clip.rotation, clip.has_audio,
        hash_to_column(clip.perceptual_hash), clip.is_browser_playable, clip.has_poster, clip.has_proxy,
    )  # fmt: skip


def _issue_columns(position: int, found: Issue) -> tuple[object, ...]:
    return (
        position, found.severity.value, found.reason, found.file, found.row, found.field, found.message, found.remedy,
    )  # fmt: skip


def _sample_columns(position: int, sample: SampleText) -> tuple[object, ...]:
    return position, sample.sample_id, sample.split, sample.messages, SEPARATOR.join(sample.tags)


def _findings_columns(found: DatasetFindings) -> tuple[object, ...]:
    return (
        found.clips, found.clips_checked, found.duration_seconds, found.rows, found.train_rows, found.eval_rows,
        found.errors, found.warnings, found.annotation_format, found.fingerprint, found.quarantined_rows,
        found.quarantined_clips,
    )  # fmt: skip
