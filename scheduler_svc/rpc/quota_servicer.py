"""QuotaService: how much users may have."""

from __future__ import annotations

from reeltune.scheduler.v1 import quota_service_pb2 as pb
from reeltune.scheduler.v1.quota_service_pb2_grpc import QuotaServiceServicer

from meshkit.rpc.paging import PageTokens, page_size
from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.quota import EVERYBODY
from scheduler_svc.rpc.caller import Context, calling_user
from scheduler_svc.rpc.quota_convert import quota_change_from_proto, quota_state_to_proto, quota_to_proto
from scheduler_svc.rpc.request_keys import request_key
from scheduler_svc.store.quota_store import QuotaStore
from scheduler_svc.usecases.delete_quota import delete_quota
from scheduler_svc.usecases.update_quota import update_quota

_LIST = "quotas"


class QuotaServicer(QuotaServiceServicer):
    """Serves the rpcs."""

    def __init__(self, quotas: QuotaStore, page_tokens: PageTokens) -> None:
        self._quotas = quotas
        self._page_tokens = page_tokens

    async def GetMyQuota(self, request: pb.GetMyQuotaRequest, context: Context) -> pb.GetMyQuotaResponse:
        return pb.GetMyQuotaResponse(quota=quota_state_to_proto(await self._quotas.get(calling_user())))

    async def GetQuota(self, request: pb.GetQuotaRequest, context: Context) -> pb.GetQuotaResponse:
        return pb.GetQuotaResponse(quota=quota_state_to_proto(await self._quotas.get(UserId(request.user_id))))

    async def ListQuotas(self, request: pb.ListQuotasRequest, context: Context) -> pb.ListQuotasResponse:
        size = page_size(request.page_size, default=50, maximum=1000)
        binding = {"caller": calling_user(), "filter": _LIST}
        position = self._page_tokens.decode(request.page_token, **binding)
        states = list(await self._quotas.list_page(None if position is None else str(position[0]), size + 1))
        response = pb.ListQuotasResponse(quotas=[quota_state_to_proto(state) for state in states[:size]])
        if len(states) > size:
            response.next_page_token = self._page_tokens.encode((states[size - 1].quota.user_id,), **binding)
        return response

    async def UpdateQuota(self, request: pb.UpdateQuotaRequest, context: Context) -> pb.UpdateQuotaResponse:
        quota = await update_quota(
            UserId(request.quota.user_id),
            quota_change_from_proto(request),
            request.quota.etag,
            calling_user(),
            request_key(request),
            self._quotas,
        )
        return pb.UpdateQuotaResponse(quota=quota_to_proto(quota))

    async def DeleteQuota(self, request: pb.DeleteQuotaRequest, context: Context) -> pb.DeleteQuotaResponse:
        user_id = UserId(request.user_id)
        quota = await delete_quota(user_id, request.etag, calling_user(), request_key(request), self._quotas)
        response = pb.DeleteQuotaResponse(quota=quota_to_proto(quota))
        response.quota.is_default = user_id != EVERYBODY
        return response
