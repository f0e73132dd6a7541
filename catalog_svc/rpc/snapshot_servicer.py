"""`reeltune.catalog.v1.SnapshotService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from reeltune.catalog.v1 import snapshot_service_pb2 as pb
from reeltune.catalog.v1 import snapshot_service_pb2_grpc

from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.domain.sample import Sample
from catalog_svc.rpc.caller import Context, calling_viewer
from catalog_svc.rpc.convert import (
    clip_to_proto,
    clips_to_batch,
    dataset_to_proto,
    model_file_to_proto,
    model_to_proto,
    samples_to_batch,
)
from catalog_svc.usecases.read_content import ReadContent

Piece = pb.StreamDatasetSnapshotResponse
_MAX_BATCH_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SnapshotServicer(snapshot_service_pb2_grpc.SnapshotServiceServicer):
    """Hands out the content of READY datasets and models."""

    read_content: ReadContent

    async def StreamDatasetSnapshot(
        self, request: pb.StreamDatasetSnapshotRequest, context: Context
    ) -> AsyncIterator[Piece]:
        clips = samples = 0
        viewer = calling_viewer(EntryKind.DATASET)
        async for piece in self.read_content.snapshot(EntryId(request.dataset_id), viewer):
            if isinstance(piece, Dataset):
                yield Piece(dataset=dataset_to_proto(piece))
            elif isinstance(piece[0], Sample):
                samples += len(piece)
                for batch in _sample_batches([sample for sample in piece if isinstance(sample, Sample)]):
                    yield Piece(samples=batch)
            else:
                clips += len(piece)
                yield Piece(clips=clips_to_batch(signed for signed in piece if not isinstance(signed, Sample)))
        yield Piece(end=pb.SnapshotEnd(clips=clips, samples=samples))

    async def GetClips(self, request: pb.GetClipsRequest, context: Context) -> pb.GetClipsResponse:
        clips = await self.read_content.get_clips(
            EntryId(request.dataset_id), calling_viewer(EntryKind.DATASET), list(request.paths)
        )
        return pb.GetClipsResponse(clips=[clip_to_proto(clip, signed) for clip, signed in clips])

    async def GetModelSnapshot(
        self, request: pb.GetModelSnapshotRequest, context: Context
    ) -> pb.GetModelSnapshotResponse:
        model, files = await self.read_content.model_snapshot(
            EntryId(request.model_id), calling_viewer(EntryKind.MODEL)
        )
        return pb.GetModelSnapshotResponse(
            model=model_to_proto(model), files=[model_file_to_proto(file, signed) for file, signed in files]
        )


def _sample_batches(samples: list[Sample]) -> list[pb.SampleBatch]:
    """Splits samples so that no message comes near the limit of 4 MiB: a single row may have one."""
    batch = samples_to_batch(samples)
    if len(samples) == 1 or batch.ByteSize() <= _MAX_BATCH_BYTES:
        return [batch]
    half = len(samples) // 2
    return [*_sample_batches(samples[:half]), *_sample_batches(samples[half:])]
