"""Sets how much a user may have."""

from __future__ import annotations

import structlog

from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.quota import Quota, QuotaChange
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.quota_store import QuotaStore


async def update_quota(
    user_id: UserId, change: QuotaChange, etag: str, by: UserId, key: RequestKey | None, quotas: QuotaStore
) -> Quota:
    """Returns the limits as they are then. Jobs that wait for them notice at the next claim.

    Raises:
        EtagMismatch, RequestIdReused: as the contract says.
    """
    quota = await quotas.update(user_id, change, etag, key)
    structlog.get_logger().info(
        "audit.quota_updated",
        by=by,
        user_id=user_id,
        running_jobs=quota.running_jobs,
        queued_jobs=quota.queued_jobs,
        device_hours_per_day=quota.device_hours_per_day,
        storage_bytes=quota.storage_bytes,
    )
    return quota
