"""The queue as a whole, read at one moment."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from meshkit.postgres import Connection, Pool, Queries
from scheduler_svc.domain.claim_forecast import QueueSnapshot, RunningJob
from scheduler_svc.domain.claim_order import OwnerStanding, QueuedJob
from scheduler_svc.domain.ids import JobId, UserId, WorkerId
from scheduler_svc.domain.job import DeviceClass, JobState, Recipe
from scheduler_svc.domain.placement import Ability, Offer
from scheduler_svc.domain.queue_view import AttemptProgress, estimate_end
from scheduler_svc.domain.quota import DeviceHours, DeviceTime, device_hours
from scheduler_svc.store.rows import Row, needs_from_row, progress_from_json, the_row

MAX_VIEWED_JOBS = 20_000
"""Of a longer queue the oldest jobs are looked at; the others' places are not told."""

_MANY = 200
"""So many jobs are not worked through on the event loop."""


class QueueStore:
    """Reads the queue, and all that decides who leaves it next."""

    def __init__(self, pool: Pool, queries: Queries, lease: timedelta) -> None:
        self._pool = pool
        self._sql = queries
        self._lease = lease

    async def read(self) -> QueueSnapshot:
        """Returns the queue as it is at one moment, by the database's clock."""
        async with (
            self._pool.acquire(timeout=5) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            now = the_row(await connection.fetchrow(self._sql.read_clock))["now"]
            jobs = await connection.fetch(self._sql.list_queue, MAX_VIEWED_JOBS)
            owners = await connection.fetch(self._sql.list_queue_owners)
            workers = await connection.fetch(self._sql.list_live_workers, self._lease)
            running = await connection.fetch(self._sql.list_running)
            durations = await self._durations(connection)
            hours = await self._device_hours(connection, owners, now)
        held = [_running_from_row(row, durations, now) for row in running]
        snapshot = QueueSnapshot(
            now=now,
            owners={UserId(row["id"]): _standing_from_row(row, hours) for row in owners},
            offers=[offer_from_row(row) for row in workers if not row["is_draining"]],
            running=held,
            hours_left={owner: hour.left for owner, hour in hours.items()},
            hours_back={owner: hour.used.free_time for owner, hour in hours.items() if hour.used.free_time is not None},
            durations=durations,
            draining=sum(row["is_draining"] for row in workers),
        )
        if len(jobs) < _MANY:
            return replace(snapshot, jobs=[_queued_from_row(row) for row in jobs])
        return replace(snapshot, jobs=await asyncio.to_thread(lambda: [_queued_from_row(row) for row in jobs]))

    async def _durations(self, connection: Connection) -> dict[Recipe, timedelta]:
        rows = await connection.fetch(self._sql.typical_durations, list(Recipe))
        return {Recipe(row["recipe"]): row["duration"] for row in rows}

    async def _device_hours(
        self, connection: Connection, owners: Sequence[Row], now: datetime
    ) -> dict[UserId, _LimitedHours]:
        limits = {UserId(row["id"]): row["hours_limit"] for row in owners if row["hours_limit"] is not None}
        if not limits:
            return {}
        spans: dict[UserId, list[DeviceTime]] = defaultdict(list)
        for row in await connection.fetch(self._sql.list_device_time, list(limits)):
            spans[UserId(row["owner_id"])].append(device_time_from_row(row))
        return {owner: _LimitedHours(limit, device_hours(spans[owner], limit, now)) for owner, limit in limits.items()}


@dataclass(frozen=True, slots=True)
class _LimitedHours:
    limit: float
    used: DeviceHours

    @property
    def left(self) -> timedelta:
        return timedelta(hours=max(self.limit - self.used.used, 0.0))


def device_time_from_row(row: Row) -> DeviceTime:
    """Returns the device time of a row of `list_device_time`."""
    return DeviceTime(row["start_time"], row["end_time"], row["device_count"])


def offer_from_row(row: Row) -> Offer:
    """Returns what a worker of a row of `workers` offers."""
    ability = Ability(
        device_class=DeviceClass(row["device_class"]),
        device_count=row["device_count"],
        memory_bytes=row["memory_bytes"],
        can_train_4bit=row["can_train_4bit"],
        recipes=frozenset(Recipe(recipe) for recipe in row["recipes"]),
    )
    return Offer(WorkerId(row["id"]), row["name"], ability)


def _queued_from_row(row: Row) -> QueuedJob:
    return QueuedJob(
        id=JobId(row["id"]),
        owner_id=UserId(row["owner_id"]),
        create_time=row["create_time"],
        not_before=row["not_before"],
        needs=needs_from_row(row),
        priority=row["priority"],
        is_paused=row["is_paused"],
        sequence=row["sequence"],
        failed_on=WorkerId(row["failed_on"]) if row["failed_on"] else None,
        unfit_on=frozenset(WorkerId(worker_id) for worker_id in row["unfit_on"] or ()),
    )


def _standing_from_row(row: Row, hours: Mapping[UserId, _LimitedHours]) -> OwnerStanding:
    limited = hours.get(UserId(row["id"]))
    return OwnerStanding(
        id=UserId(row["id"]),
        create_time=row["create_time"],
        running=row["running"],
        served_time=row["served_time"],
        running_limit=row["running_limit"],
        has_device_hours=limited is None or limited.used.used < limited.limit,
    )


def _running_from_row(row: Row, durations: Mapping[Recipe, timedelta], now: datetime) -> RunningJob:
    progress = AttemptProgress(
        state=JobState(row["state"]),
        attempt_time=row["attempt_time"],
        start_time=row["start_time"],
        progress=progress_from_json(row["progress"]),
        stop_deadline=row["stop_deadline"],
    )
    end = estimate_end(progress, durations.get(Recipe(row["recipe"])), now)
    return RunningJob(UserId(row["owner_id"]), WorkerId(row["worker_id"]) if row["worker_id"] else None, end)
