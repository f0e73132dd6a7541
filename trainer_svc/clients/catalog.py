"""The catalog: what a dataset or model consists of, and where to read it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from reeltune.catalog.v1 import sample_pb2
from reeltune.catalog.v1 import snapshot_service_pb2 as pb
from reeltune.catalog.v1.snapshot_service_pb2_grpc import SnapshotServiceStub

from meshkit.rpc.client import bearer
from trainer_svc.clients.rpc_errors import passed_on, typed_errors
from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.chosen_rows import choose_rows, shown_clips
from trainer_svc.domain.errors import StorageUnavailableError
from trainer_svc.qlora.catalog_rows import sample_to_row
from trainer_svc.qlora.dataset_rows import KNOWN_SPLITS

_CLIPS_PER_CALL = 100
_STREAM_SECONDS = 600.0


@dataclass(slots=True)
class DatasetSnapshot:
    """A whole dataset."""

    clips: list[RemoteFile] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Canonical rows as the training library reads them; clips are named `clips/PATH`."""
    skipped_rows: int = 0
    """Rows of splits that are not for training."""
    split: str = ""
    """Of which split the rows are; empty for those of several."""

    def keep(self, split: str, *, limit: int, seed: int, may_be_trained: bool = False) -> None:
        """Drops all rows and clips but those to ask about: see `choose_rows`. Raises NoSuchRowsError."""
        self.split, self.rows = choose_rows(self.rows, split, limit=limit, seed=seed, may_be_trained=may_be_trained)
        shown = shown_clips(self.rows)
        self.clips = [clip for clip in self.clips if f"clips/{clip.path}" in shown]


class CatalogClient:
    """`SnapshotService` with one kind of credential: `for_attempt` and `for_user` differ in whom errors are told."""

    def __init__(
        self, channel: grpc.aio.Channel, errors: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        self._stub = SnapshotServiceStub(channel)
        self._errors = errors

    @classmethod
    def for_attempt(cls, channel: grpc.aio.Channel) -> CatalogClient:
        """Called with attempt grants: failures are the trainer's own errors."""
        return cls(channel, typed_errors)

    @classmethod
    def for_user(cls, channel: grpc.aio.Channel) -> CatalogClient:
        """Called with users' tokens: failures go on to the user."""
        return cls(channel, passed_on)

    async def get_dataset(self, token: str, dataset_id: str, *, every_split: bool = False) -> DatasetSnapshot:
        """Everything in a dataset; rows of splits that are not for training are skipped, unless `every_split`.

        Raises:
            StorageUnavailableError: the stream was cut.
        """
        snapshot = DatasetSnapshot()
        request = pb.StreamDatasetSnapshotRequest(dataset_id=dataset_id)
        with self._errors():
            async for piece in self._stub.StreamDatasetSnapshot(
                request, metadata=bearer(token), timeout=_STREAM_SECONDS
            ):
                _add_piece(snapshot, piece, every_split=every_split)
                if piece.HasField("end") and _is_whole(snapshot, piece.end):
                    return snapshot
        raise StorageUnavailableError(f"the catalog's description of {dataset_id} was cut short")

    async def get_clips(self, token: str, dataset_id: str, paths: Sequence[str]) -> list[RemoteFile]:
        """Clips by path, with fresh URLs."""
        clips: list[RemoteFile] = []
        for start in range(0, len(paths), _CLIPS_PER_CALL):
            request = pb.GetClipsRequest(dataset_id=dataset_id, paths=paths[start : start + _CLIPS_PER_CALL])
            with self._errors():
                response = await self._stub.GetClips(request, metadata=bearer(token))
            clips += [_clip_file(clip) for clip in response.clips]
        return clips

    async def get_model_files(self, token: str, model_id: str) -> list[RemoteFile]:
        """A model's files, with URLs."""
        with self._errors():
            response = await self._stub.GetModelSnapshot(
                pb.GetModelSnapshotRequest(model_id=model_id), metadata=bearer(token)
            )
        return [RemoteFile(file.path, file.size_bytes, file.sha256, file.url) for file in response.files]


def _add_piece(snapshot: DatasetSnapshot, piece: pb.StreamDatasetSnapshotResponse, *, every_split: bool) -> None:
    if piece.HasField("clips"):
        snapshot.clips += [_clip_file(clip) for clip in piece.clips.clips]
    elif piece.HasField("samples"):
        _add_samples(snapshot, piece.samples.samples, every_split=every_split)


def _is_whole(snapshot: DatasetSnapshot, end: pb.SnapshotEnd) -> bool:
    return (end.clips, end.samples) == (len(snapshot.clips), len(snapshot.rows) + snapshot.skipped_rows)


def _clip_file(clip: sample_pb2.Clip) -> RemoteFile:
    return RemoteFile(clip.path, clip.size_bytes, clip.sha256, clip.url)


def _add_samples(snapshot: DatasetSnapshot, samples: Sequence[sample_pb2.Sample], *, every_split: bool) -> None:
    for sample in samples:
        row = sample_to_row(sample)
        if every_split or row["split"] in KNOWN_SPLITS:
            snapshot.rows.append(row)
        else:
            snapshot.skipped_rows += 1
