"""`reeltune.catalog.v1.SampleService`."""

from __future__ import annotations

from dataclasses import dataclass

from reeltune.catalog.v1 import sample_service_pb2 as pb
from reeltune.catalog.v1 import sample_service_pb2_grpc

from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.rpc.caller import Context, calling_viewer
from catalog_svc.rpc.convert_preview import preview_to_proto, settings_from_proto
from catalog_svc.rpc.convert_statistics import sampling_from_proto, statistics_to_proto
from catalog_svc.usecases.describe_dataset import DescribeDataset
from catalog_svc.usecases.preview_sample import PreviewSample


@dataclass(frozen=True, slots=True)
class SampleServicer(sample_service_pb2_grpc.SampleServiceServicer):
    """Tells what a model will see."""

    describe_dataset: DescribeDataset
    preview_sample: PreviewSample

    async def GetDatasetStatistics(
        self, request: pb.GetDatasetStatisticsRequest, context: Context
    ) -> pb.GetDatasetStatisticsResponse:
        sampling = sampling_from_proto(request.sampling)
        viewer = calling_viewer(EntryKind.DATASET)
        found = await self.describe_dataset.describe(EntryId(request.dataset_id), viewer, sampling)
        return pb.GetDatasetStatisticsResponse(statistics=statistics_to_proto(request.dataset_id, found))

    async def GetSamplePreview(
        self, request: pb.GetSamplePreviewRequest, context: Context
    ) -> pb.GetSamplePreviewResponse:
        made = await self.preview_sample.preview(
            EntryId(request.dataset_id),
            request.sample_id,
            EntryId(request.model_id),
            calling_viewer(EntryKind.DATASET),
            settings_from_proto(request),
        )
        return pb.GetSamplePreviewResponse(preview=preview_to_proto(made))
