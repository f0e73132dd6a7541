"""Hands out what is in READY datasets and models: samples, clips and files, with URLs to read from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from catalog_svc.clients.object_store import ObjectStore, SignedUrl
from catalog_svc.domain.clip import Clip
from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import EntryId, EntryKind, EntryState, Viewer
from catalog_svc.domain.errors import ClipNotFound, EntryNotFound, SampleNotFound, StateConflict
from catalog_svc.domain.export import AnnotationWriter
from catalog_svc.domain.file_path import is_path
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.model import Model
from catalog_svc.domain.sample import Sample
from catalog_svc.domain.upload import StoredFile
from catalog_svc.store.dataset_store import DatasetStore
from catalog_svc.store.entry_store import EntryStore
from catalog_svc.store.file_store import FileStore

CLIPS_PER_BATCH = 500
SAMPLES_PER_BATCH = 500
SAMPLES_PER_EXPORT = 100

SignedClip = tuple[Clip, SignedUrl]
SignedFile = tuple[StoredFile, SignedUrl]


@dataclass(frozen=True, slots=True)
class ReadContent:
    """All of it raises EntryNotFound for what the viewer may not see; StateConflict unless READY where it says so.

    What gives URLs raises ReferenceBroken for a clip in another bucket that is no longer what it was, and
    SourceUnavailable while that store does not answer.
    """

    entries: EntryStore
    files: FileStore
    datasets: DatasetStore
    objects: ObjectStore

    async def list_issues(self, dataset_id: EntryId, viewer: Viewer, after: int, size: int) -> list[tuple[int, Issue]]:
        """Lists what the last validation found wrong, with positions."""
        await self.entries.get(EntryKind.DATASET, dataset_id, viewer)
        return await self.datasets.list_issues(dataset_id, viewer, after, size)

    async def list_samples(
        self, dataset_id: EntryId, viewer: Viewer, after: int, size: int, split: str = "", tag: str = ""
    ) -> tuple[list[tuple[int, Sample]], list[Clip]]:
        """Lists samples of a READY dataset, with positions, and the clips that they name."""
        await self._ready_dataset(dataset_id, viewer)
        samples = await self.datasets.list_samples(dataset_id, viewer, after, size, split, tag)
        return samples, await self._clips_of([sample for _, sample in samples], dataset_id, viewer)

    async def find_sample(self, dataset_id: EntryId, viewer: Viewer, sample_id: str) -> tuple[Sample, dict[str, Clip]]:
        """Finds a sample of a READY dataset and the clips that it names, by path; raises SampleNotFound."""
        await self._ready_dataset(dataset_id, viewer)
        # No sample has an id with a NUL character, and Postgres cannot even compare with one.
        sample = None if "\0" in sample_id else await self.datasets.find_sample(dataset_id, viewer, sample_id)
        if sample is None:
            raise SampleNotFound(sample_id)
        return sample, {clip.path: clip for clip in await self._clips_of([sample], dataset_id, viewer)}

    async def snapshot(
        self, dataset_id: EntryId, viewer: Viewer
    ) -> AsyncIterator[Dataset | list[SignedClip] | list[Sample]]:
        """Yields a READY dataset, then its clips with URLs in batches by path, then its samples in batches by row."""
        dataset = await self._ready_dataset(dataset_id, viewer)
        yield dataset
        clip_count = sample_count = position = 0
        path = ""
        while clips := await self.datasets.list_clips(dataset_id, viewer, path, CLIPS_PER_BATCH):
            clip_count, path = clip_count + len(clips), clips[-1].path
            yield await self._signed(clips)
        while samples := await self.datasets.list_samples(dataset_id, viewer, position, SAMPLES_PER_BATCH):
            sample_count, position = sample_count + len(samples), samples[-1][0]
            yield [sample for _, sample in samples]
        # A READY dataset never changes, so fewer means that it was deleted, or hidden, meanwhile.
        if (clip_count, sample_count) != (dataset.findings.clips, dataset.findings.rows):
            raise EntryNotFound(EntryKind.DATASET)

    async def export(self, dataset_id: EntryId, viewer: Viewer, writer: AnnotationWriter) -> AsyncIterator[str]:
        """Yields the text of a READY dataset's annotation file, some rows at a time; raises SampleNotHeld."""
        dataset = await self._ready_dataset(dataset_id, viewer)
        count = position = 0
        while samples := await self.datasets.list_samples(dataset_id, viewer, position, SAMPLES_PER_EXPORT):
            count, position = count + len(samples), samples[-1][0]
            for text in writer.write(sample for _, sample in samples):
                yield text
        if count != dataset.findings.rows:  # deleted, or hidden, meanwhile
            raise EntryNotFound(EntryKind.DATASET)
        yield writer.end()

    async def get_clips(self, dataset_id: EntryId, viewer: Viewer, paths: Sequence[str]) -> list[SignedClip]:
        """Gets clips of a READY dataset in the order asked for, with URLs; raises ClipNotFound."""
        await self._ready_dataset(dataset_id, viewer)
        # A path that no file can have, such as one with a NUL character, never reaches the database.
        found = await self.datasets.find_clips(dataset_id, viewer, [path for path in paths if is_path(path)])
        for path in paths:
            if path not in found:
                raise ClipNotFound(path)
        return await self._signed([found[path] for path in paths])

    async def model_snapshot(self, model_id: EntryId, viewer: Viewer) -> tuple[Model, list[SignedFile]]:
        """Gets a READY model and its files with URLs."""
        model, files = await self.model_files(model_id, viewer)
        urls = await self.objects.read_urls([file.place for file in files])
        return model, list(zip(files, urls, strict=True))

    async def model_files(self, model_id: EntryId, viewer: Viewer) -> tuple[Model, list[StoredFile]]:
        """Gets a READY model and its files."""
        model = await self.entries.get(EntryKind.MODEL, model_id, viewer)
        assert isinstance(model, Model)
        _check_ready(model)
        files = await self.files.list_visible(model_id, viewer)
        if len(files) != model.entry.file_count:
            raise EntryNotFound(EntryKind.MODEL)
        return model, files

    async def _ready_dataset(self, dataset_id: EntryId, viewer: Viewer) -> Dataset:
        dataset = await self.entries.get(EntryKind.DATASET, dataset_id, viewer)
        assert isinstance(dataset, Dataset)
        _check_ready(dataset)
        return dataset

    async def _clips_of(self, samples: Sequence[Sample], dataset_id: EntryId, viewer: Viewer) -> list[Clip]:
        paths = sorted({video.path for sample in samples for video in sample.videos()})
        found = await self.datasets.find_clips(dataset_id, viewer, paths) if paths else {}
        return [found[path] for path in paths if path in found]

    async def _signed(self, clips: Sequence[Clip]) -> list[SignedClip]:
        return list(zip(clips, await self.objects.read_urls([clip.place for clip in clips]), strict=True))


def _check_ready(described: Dataset | Model) -> None:
    entry = described.entry
    if entry.state is not EntryState.READY:
        raise StateConflict(entry.kind.value, entry.state.value, (EntryState.READY.value,))
