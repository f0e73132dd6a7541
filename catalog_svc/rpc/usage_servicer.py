"""`reeltune.catalog.v1.UsageService`."""

from __future__ import annotations

from dataclasses import dataclass

from reeltune.catalog.v1 import usage_service_pb2 as pb
from reeltune.catalog.v1 import usage_service_pb2_grpc

from catalog_svc.domain.storage_usage import StorageUsage
from catalog_svc.rpc.caller import Context, calling_user
from catalog_svc.rpc.list_requests import MAX_PAGE_SIZE
from catalog_svc.store.usage_store import UsageStore
from meshkit.rpc.paging import PageTokens, page_size


@dataclass(frozen=True, slots=True)
class UsageServicer(usage_service_pb2_grpc.UsageServiceServicer):
    """Tells what users have stored."""

    usage: UsageStore
    page_tokens: PageTokens

    async def GetMyUsage(self, request: pb.GetMyUsageRequest, context: Context) -> pb.GetMyUsageResponse:
        return pb.GetMyUsageResponse(usage=_to_proto(await self.usage.get(calling_user())))

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        return pb.GetUsageResponse(usage=_to_proto(await self.usage.get(request.user_id)))

    async def ListUsage(self, request: pb.ListUsageRequest, context: Context) -> pb.ListUsageResponse:
        user = calling_user()
        position = self.page_tokens.decode(request.page_token, caller=user, filter="usage")
        size = page_size(request.page_size, maximum=MAX_PAGE_SIZE)
        found = await self.usage.list_page("" if position is None else str(position[0]), size + 1)
        response = pb.ListUsageResponse(usage=[_to_proto(usage) for usage in found[:size]])
        if len(found) > size:
            last = found[size - 1].owner_id
            response.next_page_token = self.page_tokens.encode((last,), caller=user, filter="usage")
        return response


def _to_proto(usage: StorageUsage) -> pb.Usage:
    return pb.Usage(
        user_id=usage.owner_id,
        stored_bytes=usage.stored_bytes,
        stored_files=usage.stored_objects,
        pending_bytes=usage.pending_bytes,
        datasets=usage.datasets,
        dataset_bytes=usage.dataset_bytes,
        models=usage.models,
        model_bytes=usage.model_bytes,
    )
