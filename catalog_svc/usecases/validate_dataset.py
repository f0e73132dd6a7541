"""Validates one dataset: every clip decoded in full, every row checked."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.domain import issue
from catalog_svc.domain.annotations import Annotations, find_annotation_file, parse_annotations
from catalog_svc.domain.clip import ClipFault, DecodedClip, FaultyClip, ProbeOutcome
from catalog_svc.domain.dataset_check import DatasetVerdict, check_dataset
from catalog_svc.domain.entry import EntryId
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.records import MAX_FILE_BYTES
from catalog_svc.domain.upload import StoredFile
from catalog_svc.probe.pool import ProbePool
from catalog_svc.store.dataset_store import DatasetStore
from catalog_svc.store.file_store import FileStore

_REPORT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ValidateDataset:
    """Makes verdicts on datasets."""

    files: FileStore
    datasets: DatasetStore
    objects: ObjectStore
    pool: ProbePool
    spool_dir: Path | None
    """Where clips lie while they are decoded; None: the system's folder for temporary files."""
    max_clip_bytes: int

    async def check(self, dataset_id: EntryId) -> DatasetVerdict:
        """Returns the verdict. What decoding finds is kept as it comes, so that a restart goes on from there."""
        files = await self.files.list_all(dataset_id)
        annotations = await self._annotations(dataset_id, files)
        path = annotations.file if isinstance(annotations, Annotations) else ""
        outcomes = await self._outcomes(dataset_id, [file for file in files if file.path != path])
        # Off the event loop: a dataset may have hundreds of thousands of rows.
        return await asyncio.to_thread(check_dataset, files, annotations, outcomes)

    async def _annotations(self, dataset_id: EntryId, files: Sequence[StoredFile]) -> Annotations | Issue:
        found = find_annotation_file(file.path for file in files)
        if isinstance(found, Issue):
            return found
        file = next(file for file in files if file.path == found)
        if file.size_bytes > MAX_FILE_BYTES:
            what = f"the file has {file.size_bytes} bytes, at most {MAX_FILE_BYTES} are read"
            return issue.error("ANNOTATIONS_TOO_LARGE", what, "split the dataset in two", file=file.path)
        data = await self.objects.read(dataset_id, file.sha256, MAX_FILE_BYTES)
        return await asyncio.to_thread(parse_annotations, file.path, data)

    async def _outcomes(self, dataset_id: EntryId, media: Sequence[StoredFile]) -> Mapping[str, ProbeOutcome]:
        by_digest = {file.sha256: file for file in media}
        outcomes = {
            sha256: outcome
            for sha256, outcome in (await self.datasets.list_probes(dataset_id)).items()
            if sha256 in by_digest
        }
        progress = _Progress(self.datasets, dataset_id, media, outcomes)
        await progress.report()
        waiting = iter([file for sha256, file in by_digest.items() if sha256 not in outcomes])
        with tempfile.TemporaryDirectory(prefix="reeltune-probe-", dir=self.spool_dir) as folder:
            # One more than the pool decodes, so that the next clip is fetched meanwhile.
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.pool.size + 1):
                        group.create_task(self._probe_all(dataset_id, waiting, Path(folder), progress))
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from failures
        await progress.report()
        return outcomes

    async def _probe_all(
        self, dataset_id: EntryId, waiting: Iterator[StoredFile], folder: Path, progress: _Progress
    ) -> None:
        for file in waiting:  # the workers share the iterator
            progress.add(file.sha256, await self._probe(dataset_id, file, folder))
            await progress.report_now_and_then()

    async def _probe(self, dataset_id: EntryId, file: StoredFile, folder: Path) -> ProbeOutcome:
        if file.size_bytes == 0:
            return FaultyClip(ClipFault.EMPTY, "the file is empty")
        if file.size_bytes > self.max_clip_bytes:
            return FaultyClip(
                ClipFault.TOO_LARGE, f"it has {file.size_bytes} bytes, at most {self.max_clip_bytes} are decoded"
            )
        path = folder / file.sha256
        try:
            await self.objects.download(dataset_id, file.sha256, file.size_bytes, path)
            return await self.pool.probe_clip(path)
        finally:
            path.unlink(missing_ok=True)


class _Progress:
    """Keeps what is found, and tells the database of it a few times a second."""

    def __init__(
        self,
        datasets: DatasetStore,
        dataset_id: EntryId,
        media: Sequence[StoredFile],
        outcomes: dict[str, ProbeOutcome],
    ) -> None:
        self._datasets = datasets
        self._dataset_id = dataset_id
        self._media = media
        self._outcomes = outcomes
        self._unsaved: dict[str, ProbeOutcome] = {}
        self._reported_at = time.monotonic()

    def add(self, sha256: str, outcome: ProbeOutcome) -> None:
        self._outcomes[sha256] = self._unsaved[sha256] = outcome

    async def report_now_and_then(self) -> None:
        if time.monotonic() - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = time.monotonic()
            await self.report()

    async def report(self) -> None:
        unsaved, self._unsaved = self._unsaved, {}
        if unsaved:
            await self._datasets.put_probes(self._dataset_id, unsaved)
        found = [self._outcomes.get(file.sha256) for file in self._media]
        checked = [outcome for outcome in found if outcome is not None]
        seconds = sum(outcome.duration_seconds for outcome in checked if isinstance(outcome, DecodedClip))
        await self._datasets.set_progress(self._dataset_id, len(found), len(checked), seconds)
        structlog.get_logger().debug(
            "dataset.progress", resource=self._dataset_id, files=len(found), checked=len(checked)
        )
