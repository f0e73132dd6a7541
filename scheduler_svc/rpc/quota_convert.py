"""Quotas, from and to the contract."""

from __future__ import annotations

from reeltune.scheduler.v1 import quota_pb2, quota_service_pb2

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.quota import EVERYBODY, Limit, Quota, QuotaChange, QuotaUsage
from scheduler_svc.rpc.convert import timestamp
from scheduler_svc.store.quota_store import QuotaState


def quota_state_to_proto(state: QuotaState) -> quota_pb2.Quota:
    """Returns the limits that hold for a user, and what counts against them."""
    message = quota_to_proto(state.quota)
    message.is_default = state.is_default
    if state.quota.user_id != EVERYBODY:
        message.usage.CopyFrom(_usage_to_proto(state.usage))
    return message


def quota_to_proto(quota: Quota) -> quota_pb2.Quota:
    """Returns limits; those that are none stay absent."""
    return quota_pb2.Quota(
        user_id=quota.user_id,
        running_jobs=quota.running_jobs,
        queued_jobs=quota.queued_jobs,
        device_hours_per_day=quota.device_hours_per_day,
        storage_bytes=quota.storage_bytes,
        etag=quota.etag,
        update_time=timestamp(quota.update_time),
    )


def quota_change_from_proto(request: quota_service_pb2.UpdateQuotaRequest) -> QuotaChange:
    """Returns what an update asks for. Raises InvalidField for a mask that is empty or names what is no limit."""
    paths = list(request.update_mask.paths)
    known = {limit.value: limit for limit in Limit}
    unknown = [path for path in paths if path not in known]
    if unknown or not paths:
        found = f"{unknown[0]!r} is no limit" if unknown else "must not be empty"
        raise InvalidField("update_mask", f"{found}; name one or more of: {', '.join(known)}")
    given = request.quota
    values = Quota(
        UserId(given.user_id),
        running_jobs=given.running_jobs if given.HasField("running_jobs") else None,
        queued_jobs=given.queued_jobs if given.HasField("queued_jobs") else None,
        device_hours_per_day=given.device_hours_per_day if given.HasField("device_hours_per_day") else None,
        storage_bytes=given.storage_bytes if given.HasField("storage_bytes") else None,
    )
    return QuotaChange(frozenset(known[path] for path in paths), values)


def _usage_to_proto(usage: QuotaUsage) -> quota_pb2.QuotaUsage:
    return quota_pb2.QuotaUsage(
        running_jobs=usage.running_jobs,
        queued_jobs=usage.queued_jobs,
        device_hours=usage.device_hours,
        device_hours_free_time=timestamp(usage.device_hours_free_time),
        storage_bytes=usage.storage_bytes,
    )
