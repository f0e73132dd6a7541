"""Validates one dataset: every clip decoded in full, every row checked."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from catalog_svc.clients.object_store import BytesMissing, ObjectStore, Picture
from catalog_svc.domain import issue
from catalog_svc.domain.annotations import AnnotationPlan, AnnotationReader, plan_annotations
from catalog_svc.domain.clip import ClipFault, DecodedClip, FaultyClip, ProbeOutcome
from catalog_svc.domain.content import pictures_key
from catalog_svc.domain.dataset_check import DatasetVerdict, check_dataset
from catalog_svc.domain.dataset_info import DATASET_INFO_NAME
from catalog_svc.domain.entry import EntryId
from catalog_svc.domain.errors import LeaseLost, ReferenceBroken
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.quarantine import Quarantine
from catalog_svc.domain.sample import SampleText
from catalog_svc.domain.upload import StoredFile
from catalog_svc.probe.pool import ProbePool
from catalog_svc.store.dataset_store import DatasetStore
from catalog_svc.store.file_store import FileStore
from catalog_svc.store.sample_spool import SampleSpool
from catalog_svc.usecases.lost_content import CONTENT_LOST, LOST, REMEDY, forget_lost
from catalog_svc.usecases.read_dataset_info import read_dataset_info
from meshkit.failpoints import failpoint

_REPORT_SECONDS = 0.5
_FETCHES_AT_ONCE = 8


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

    @contextlib.asynccontextmanager
    async def checked(self, dataset_id: EntryId) -> AsyncGenerator[tuple[DatasetVerdict, Iterable[SampleText]], None]:
        """Gives the verdict, and the samples if it is sound, which last as long as the context.

        What decoding finds is kept as it comes, so that a restart goes on from there.
        """
        files = {file.path: file for file in await self.files.list_all(dataset_id)}
        quarantine = Quarantine(await self.datasets.load_quarantine(dataset_id), files)
        plan = await self._plan(files)
        media = [file for path, file in files.items() if not _speaks_of_clips(plan, path)]
        outcomes = await self._outcomes(dataset_id, media)
        with tempfile.TemporaryDirectory(prefix="reeltune-rows-", dir=self.spool_dir) as folder:
            rows: AnnotationReader | Issue = (
                plan if isinstance(plan, Issue) else await self._rows(files, plan, Path(folder))
            )
            with SampleSpool(self.spool_dir) as samples:
                # Off the event loop: a dataset may have hundreds of thousands of rows.
                verdict = await asyncio.to_thread(check_dataset, media, rows, outcomes, samples.add, quarantine)
                yield verdict, samples if verdict.is_sound else ()

    async def _plan(self, files: Mapping[str, StoredFile]) -> AnnotationPlan | Issue:
        try:
            info = await read_dataset_info(self.objects, files)
        except BytesMissing:
            return await self._lost(files[DATASET_INFO_NAME])
        if isinstance(info, Issue):
            return info
        return plan_annotations({path: file.size_bytes for path, file in files.items()}, info)

    async def _rows(
        self, files: Mapping[str, StoredFile], plan: AnnotationPlan, folder: Path
    ) -> AnnotationReader | Issue:
        """Fetches the files of a plan and returns what reads them, or says which of them are lost."""
        wanted = {files[path].sha256: files[path] for path in ((plan.file,) if plan.file else plan.clips_by_text)}
        waiting = iter(wanted.values())
        lost: dict[str, Issue] = {}

        async def fetch_each() -> None:
            for file in waiting:  # the fetchers share the iterator
                try:
                    await self.objects.fetch(file.place, file.size_bytes, file.sha256, folder / file.sha256)
                except BytesMissing:
                    lost[file.sha256] = await self._lost(file)

        async with asyncio.TaskGroup() as group:
            for _ in range(_FETCHES_AT_ONCE):
                group.create_task(fetch_each())
        if plan.file and lost:
            return lost[files[plan.file].sha256]
        if lost:
            texts = {path: clip for path, clip in plan.clips_by_text.items() if files[path].sha256 not in lost}
            plan = replace(plan, clips_by_text=texts, issues=(*plan.issues, *lost.values()))
        return AnnotationReader(plan, lambda path: (folder / files[path].sha256).open("rb"))

    async def _lost(self, file: StoredFile) -> Issue:
        await forget_lost(self.files, self.objects, file)
        return issue.error(CONTENT_LOST, LOST, REMEDY, file=file.path)

    async def _outcomes(self, dataset_id: EntryId, media: Sequence[StoredFile]) -> Mapping[str, ProbeOutcome]:
        copies = _copies(media)
        outcomes = {
            sha256: outcome
            for sha256, outcome in (await self.datasets.list_probes(dataset_id)).items()
            if sha256 in copies
        }
        progress = _Progress(self.datasets, dataset_id, media, outcomes)
        await progress.report()
        waiting = iter([files for sha256, files in copies.items() if sha256 not in outcomes])
        with tempfile.TemporaryDirectory(prefix="reeltune-probe-", dir=self.spool_dir) as folder:
            # One more than the pool decodes, so that the next clip is fetched meanwhile.
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.pool.size + 1):
                        group.create_task(self._probe_all(waiting, Path(folder), progress))
                await progress.report()
            except (ExceptionGroup, LeaseLost) as failures:
                await self._forget_pictures(media)
                if isinstance(failures, LeaseLost):
                    raise
                raise failures.exceptions[0] from failures
        return outcomes

    async def _forget_pictures(self, media: Sequence[StoredFile]) -> None:
        """Has contents looked at again that went while pictures were made of them: these would outlast them."""
        await self.files.discard_gone([pictures_key(file.place, file.sha256) for file in media])

    async def _probe_all(self, waiting: Iterator[Sequence[StoredFile]], folder: Path, progress: _Progress) -> None:
        for copies in waiting:  # the workers share the iterator
            outcome = await self._probe(copies, folder)
            await failpoint("validation.clip_probed")
            progress.add(copies[0].sha256, outcome)
            await progress.report_now_and_then()

    async def _probe(self, copies: Sequence[StoredFile], folder: Path) -> ProbeOutcome:
        """Decodes the first of some files with the same bytes."""
        file = copies[0]
        if file.size_bytes == 0:
            return FaultyClip(ClipFault.EMPTY, "the file is empty")
        if file.size_bytes > self.max_clip_bytes:
            return FaultyClip(
                ClipFault.TOO_LARGE, f"it has {file.size_bytes} bytes, at most {self.max_clip_bytes} are decoded"
            )
        path = folder / file.sha256
        try:
            await self.objects.fetch(file.place, file.size_bytes, file.sha256, path)
            probed = await self.pool.probe_clip(path)
            if isinstance(probed.outcome, FaultyClip):
                return probed.outcome
            return await self._with_pictures(copies, path, probed.outcome, probed.poster)
        except BytesMissing:
            await forget_lost(self.files, self.objects, file)
            return FaultyClip(ClipFault.CONTENT_LOST, LOST)
        except ReferenceBroken as error:
            return FaultyClip(ClipFault.REFERENCE_BROKEN, str(error))
        finally:
            path.unlink(missing_ok=True)

    async def _with_pictures(
        self, copies: Sequence[StoredFile], path: Path, clip: DecodedClip, poster: bytes
    ) -> DecodedClip:
        """Stores what people look at: a poster, and a short copy of a clip that browsers do not play.

        Each place that has the clip has them: any file of the same bytes may go while the others stay.
        """
        proxy = b"" if clip.is_browser_playable else await self.pool.make_proxy(path)
        for key in sorted({pictures_key(file.place, file.sha256) for file in copies}):
            if poster:
                await self.objects.put_picture(key, Picture.POSTER, poster)
            if proxy:
                await self.objects.put_picture(key, Picture.PROXY, proxy)
        return replace(clip, has_poster=bool(poster), has_proxy=bool(proxy))


def _copies(media: Iterable[StoredFile]) -> Mapping[str, Sequence[StoredFile]]:
    """Returns the files by their SHA-256, those first that lie in the service's own bucket."""
    copies: dict[str, list[StoredFile]] = {}
    for file in sorted(media, key=lambda file: file.place.location_id is not None):
        copies.setdefault(file.sha256, []).append(file)
    return copies


def _speaks_of_clips(plan: AnnotationPlan | Issue, path: str) -> bool:
    # An annotation file that is not read, such as one that is too large, is no clip either, and never fetched.
    return path in (DATASET_INFO_NAME, plan.file) if isinstance(plan, Issue) else plan.speaks_of_clips(path)


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
        self._reporting = asyncio.Lock()

    def add(self, sha256: str, outcome: ProbeOutcome) -> None:
        self._outcomes[sha256] = self._unsaved[sha256] = outcome

    async def report_now_and_then(self) -> None:
        if time.monotonic() - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = time.monotonic()
            await self.report()

    async def report(self) -> None:
        # One at a time, and of what is kept only: whoever goes on after a death must not seem to fall back.
        async with self._reporting:
            unsaved, self._unsaved = self._unsaved, {}
            found = [self._outcomes.get(file.sha256) for file in self._media]
            if unsaved:
                await self._datasets.put_probes(self._dataset_id, unsaved)
                await failpoint("validation.probes_kept")
            checked = [outcome for outcome in found if outcome is not None]
            seconds = sum(outcome.duration_seconds for outcome in checked if isinstance(outcome, DecodedClip))
            await self._datasets.set_progress(self._dataset_id, len(found), len(checked), seconds)
        structlog.get_logger().debug(
            "dataset.progress", resource=self._dataset_id, files=len(found), checked=len(checked)
        )
