"""Takes a user's own limits away."""

from __future__ import annotations

import structlog

from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.quota import Quota
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.quota_store import QuotaStore


async def delete_quota(user_id: UserId, etag: str, by: UserId, key: RequestKey | None, quotas: QuotaStore) -> Quota:
    """Returns the limits that hold then: those of everybody. Jobs that wait for them notice at the next claim.

    Raises:
        EtagMismatch, RequestIdReused: as the contract says.
    """
    quota = await quotas.delete(user_id, etag, key)
    structlog.get_logger().info("audit.quota_deleted", by=by, user_id=user_id)
    return quota
