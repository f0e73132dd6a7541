"""`reeltune.catalog.v1.VersionService`."""

from __future__ import annotations

from dataclasses import dataclass

from reeltune.catalog.v1 import version_service_pb2 as pb
from reeltune.catalog.v1 import version_service_pb2_grpc

from catalog_svc.domain.entry import EntryId
from catalog_svc.rpc.caller import Context, calling_user
from catalog_svc.rpc.convert import dataset_to_proto
from catalog_svc.rpc.list_requests import MAX_PAGE_SIZE, fitting
from catalog_svc.usecases.keep_versions import KeepVersions
from meshkit.rpc.paging import PageTokens, page_size

_NEWEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class VersionServicer(version_service_pb2_grpc.VersionServiceServicer):
    """Keeps versions of datasets."""

    keep_versions: KeepVersions
    page_tokens: PageTokens

    async def CreateDatasetVersion(
        self, request: pb.CreateDatasetVersionRequest, context: Context
    ) -> pb.CreateDatasetVersionResponse:
        made = await self.keep_versions.create(EntryId(request.dataset_id), calling_user(), request.request_id)
        return pb.CreateDatasetVersionResponse(dataset=dataset_to_proto(made))

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Context
    ) -> pb.ListDatasetVersionsResponse:
        user, binding = calling_user(), f"versions:{request.dataset_id}"
        position = self.page_tokens.decode(request.page_token, caller=user, filter=binding)
        below = _NEWEST if position is None else int(position[0])
        size = page_size(request.page_size, maximum=MAX_PAGE_SIZE)
        found = await self.keep_versions.list_page(EntryId(request.dataset_id), user, below, size + 1)
        messages = [dataset_to_proto(version) for version in found[:size]]
        count = fitting(messages)
        response = pb.ListDatasetVersionsResponse(datasets=messages[:count])
        if len(found) > count:
            last = found[count - 1].entry.version
            response.next_page_token = self.page_tokens.encode((last,), caller=user, filter=binding)
        return response

    async def QuarantineDataset(
        self, request: pb.QuarantineDatasetRequest, context: Context
    ) -> pb.QuarantineDatasetResponse:
        places = [(item.file, item.row) for item in request.items]
        begun = await self.keep_versions.quarantine(EntryId(request.dataset_id), calling_user(), places)
        return pb.QuarantineDatasetResponse(dataset=dataset_to_proto(begun))

    async def ListQuarantine(self, request: pb.ListQuarantineRequest, context: Context) -> pb.ListQuarantineResponse:
        user, binding = calling_user(), f"quarantine:{request.dataset_id}"
        position = self.page_tokens.decode(request.page_token, caller=user, filter=binding)
        after = ("", -1) if position is None else (str(position[0]), int(position[1]))
        size = page_size(request.page_size, default=100, maximum=MAX_PAGE_SIZE)
        found = await self.keep_versions.list_quarantine(EntryId(request.dataset_id), user, after, size + 1)
        response = pb.ListQuarantineResponse(
            items=[
                pb.QuarantinedItem(file=item.file, row=item.row, reason=item.reason, message=item.message)
                for item in found[:size]
            ]
        )
        if len(found) > size:
            last = found[size - 1]
            response.next_page_token = self.page_tokens.encode((last.file, last.row), caller=user, filter=binding)
        return response
