"""The scheduler, asked with the user's own token: what live jobs use, and how much the user may store."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import structlog
from reeltune.scheduler.v1 import quota_service_pb2, quota_service_pb2_grpc, use_service_pb2, use_service_pb2_grpc

from catalog_svc.domain.entry import EntryId
from catalog_svc.domain.storage_usage import NO_LIMIT, StorageAllowance
from meshkit.batching import SharedCalls
from meshkit.rpc.client import bearer
from meshkit.rpc.status import failure_from_rpc_error

SHOWN_JOBS = 5
_GOOD_FOR_SECONDS = 5.0
"""How old a quota may be: it is asked for with every upload."""
_MOST_REMEMBERED = 10_000
_PASSED_ON = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND)


@dataclass(frozen=True, slots=True)
class LiveUses:
    """Jobs that are not final and use an entry."""

    job_ids: tuple[str, ...]
    """Some of the caller's own."""
    more: bool
    """There are more of them."""
    others: int
    """How many others have."""

    def __bool__(self) -> bool:
        return bool(self.job_ids or self.others)


class Scheduler:
    """Live uses and quotas. Without a channel there is no scheduler in this mesh, and so no job and no quota."""

    def __init__(self, channel: grpc.aio.Channel | None) -> None:
        self._uses = None if channel is None else use_service_pb2_grpc.UseServiceStub(channel)
        self._quotas = None if channel is None else quota_service_pb2_grpc.QuotaServiceStub(channel)
        self._allowances = SharedCalls(self._ask_allowance, good_for_seconds=_GOOD_FOR_SECONDS)
        self._last: dict[str, StorageAllowance] = {}

    async def live_uses(self, entry_id: EntryId, token: str) -> LiveUses:
        """Asks which live jobs use an entry of the caller's.

        Raises:
            grpc.aio.AioRpcError: the scheduler does not answer, so nobody knows.
        """
        if self._uses is None:
            return LiveUses((), False, 0)
        request = use_service_pb2.ListUsesRequest(entry_id=entry_id, live_only=True, page_size=SHOWN_JOBS)
        try:
            found = await self._uses.ListUses(request, metadata=bearer(token))
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        return LiveUses(tuple(use.job_id for use in found.uses), bool(found.next_page_token), found.live_jobs_of_others)

    async def allowance(self, user_id: str, token: str) -> StorageAllowance:
        """Asks how much the caller may store.

        While the scheduler does not answer, what it last said of the user holds, or else no limit: a quota is for
        fairness, and uploads shall not wait for it.
        """
        if self._quotas is None:
            return NO_LIMIT
        try:
            found = await self._allowances.ask(token)
        except grpc.aio.AioRpcError as error:
            structlog.get_logger().warning("quota.unknown", user_id=user_id, code=error.code().name)
            return self._last.get(user_id, NO_LIMIT)
        if len(self._last) >= _MOST_REMEMBERED:
            self._last.clear()
        self._last[user_id] = found
        return found

    async def _ask_allowance(self, token: str) -> StorageAllowance:
        assert self._quotas is not None
        request = quota_service_pb2.GetMyQuotaRequest()
        try:
            quota = (await self._quotas.GetMyQuota(request, metadata=bearer(token), timeout=2)).quota
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        limit = quota.storage_bytes if quota.HasField("storage_bytes") else None
        return StorageAllowance(limit, quota.usage.storage_bytes)


def _translated(error: grpc.aio.AioRpcError) -> Exception:
    # A token that ends between our check and the scheduler's is the caller's business; the rest is ours.
    return failure_from_rpc_error(error) if error.code() in _PASSED_ON else error
