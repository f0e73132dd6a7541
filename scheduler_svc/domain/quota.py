"""How much a user may have: limits, what counts against them, and when there is room again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from scheduler_svc.domain.errors import QuotaExceeded
from scheduler_svc.domain.ids import UserId

EVERYBODY = UserId("default")
"""Stands for everybody who has no quota of their own."""
WINDOW = timedelta(hours=24)
"""Device hours are counted over a window that moves with the clock, so that midnight changes nothing."""


class Limit(StrEnum):
    """What can be limited; the names are those of the contract's fields."""

    RUNNING_JOBS = "running_jobs"
    QUEUED_JOBS = "queued_jobs"
    DEVICE_HOURS = "device_hours_per_day"
    STORAGE = "storage_bytes"


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one user, or of everybody else; None stands for no limit."""

    user_id: UserId
    running_jobs: int | None = None
    queued_jobs: int | None = None
    device_hours_per_day: float | None = None
    storage_bytes: int | None = None
    revision: int = 0
    """Counts the changes; 0 for who has the limits of everybody."""
    update_time: datetime | None = None

    @property
    def etag(self) -> str:
        """Differs after every change."""
        return f"r{self.revision}"


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """What counts against a user's limits now."""

    running_jobs: int = 0
    queued_jobs: int = 0
    device_hours: float = 0.0
    """Of the last 24 hours, running attempts so far included; each device counts."""
    device_hours_free_time: datetime | None = None
    """When there will be some again, at the earliest; None unless they are used up."""
    storage_bytes: int = 0
    """Artifacts and checkpoints."""


@dataclass(frozen=True, slots=True)
class QuotaChange:
    """New values of some limits."""

    fields: frozenset[Limit]
    values: Quota

    def apply(self, quota: Quota) -> Quota:
        """Returns the quota with the new values; revision and time are the store's."""
        return replace(quota, **{name.value: getattr(self.values, name.value) for name in self.fields})


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """How long an attempt held how many devices."""

    start_time: datetime
    end_time: datetime | None
    """None while it runs."""
    device_count: int = 1


@dataclass(frozen=True, slots=True)
class DeviceHours:
    """An owner's device hours of the last 24 hours."""

    used: float
    free_time: datetime | None = field(default=None)
    """When, at the earliest, less than the limit will be used again; None when it is, or never will be."""


def check_submission(quota: Quota, queued_jobs: int, storage_bytes: int) -> None:
    """Raises QuotaExceeded when the user may not submit a job: too many wait, or too much is stored."""
    if quota.queued_jobs is not None and queued_jobs >= quota.queued_jobs:
        raise QuotaExceeded(Limit.QUEUED_JOBS, quota.queued_jobs, queued_jobs)
    if quota.storage_bytes is not None and storage_bytes >= quota.storage_bytes:
        raise QuotaExceeded(Limit.STORAGE, quota.storage_bytes, storage_bytes)


def device_hours(spans: Iterable[DeviceTime], limit: float, now: datetime) -> DeviceHours:
    """Returns what is used of `limit` device hours, and when there are some again if no more is used from now on."""
    begin = now - WINDOW
    pieces = [
        (max(span.start_time, begin), min(span.end_time or now, now), span.device_count)
        for span in spans
        if (span.end_time or now) > begin
    ]
    used = sum(((end - start) * count for start, end, count in pieces if end > start), timedelta())
    allowed = timedelta(hours=limit)
    if used < allowed or limit <= 0:
        return DeviceHours(used / timedelta(hours=1))
    return DeviceHours(used / timedelta(hours=1), _time_to_shed(pieces, used - allowed) + WINDOW)


def _time_to_shed(pieces: Iterable[tuple[datetime, datetime, int]], excess: timedelta) -> datetime:
    """Returns up to when the pieces must have left the window's old edge for more than `excess` to be gone."""
    steps: dict[datetime, int] = {}
    for start, end, count in pieces:
        steps[start] = steps.get(start, 0) + count
        steps[end] = steps.get(end, 0) - count
    moments = sorted(steps)
    weight = 0
    for moment, following in pairwise(moments):
        weight += steps[moment]
        gone = (following - moment) * weight
        if gone > excess:
            return moment + excess / weight + timedelta(microseconds=1)
        excess -= gone
    return moments[-1] if moments else datetime.min.replace(tzinfo=UTC)
