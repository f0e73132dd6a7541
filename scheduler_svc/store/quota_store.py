"""Quotas, what counts against them, and their enforcement where jobs are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from meshkit.postgres import Connection, Pool, Queries
from scheduler_svc.domain.errors import EtagMismatch, QuotaExceeded
from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.quota import (
    Quota,
    QuotaChange,
    QuotaUsage,
    check_submission,
    device_hours,
)
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.queue_store import device_time_from_row
from scheduler_svc.store.request_store import AnswerCodec, answer_once
from scheduler_svc.store.rows import Row, the_row


@dataclass(frozen=True, slots=True)
class QuotaState:
    """The limits that hold for a user, and what counts against them."""

    quota: Quota
    is_default: bool
    """They are those of everybody, for want of own ones."""
    usage: QuotaUsage


class QuotaStore:
    """How much users may have."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries

    async def get(self, user_id: UserId) -> QuotaState:
        """Returns what holds for a user; nobody asks whether there is one."""
        row = the_row(await self._pool.fetchrow(self._sql.select_quotas, [user_id]))
        state = _state_from_row(row, None)
        limit = state.quota.device_hours_per_day
        if limit is None or state.usage.device_hours < limit:
            return state
        spans = await self._pool.fetch(self._sql.list_device_time, [user_id])
        hours = device_hours([device_time_from_row(span) for span in spans], limit, row["now"])
        return _state_from_row(row, hours.free_time)

    async def list_page(self, after: str | None, limit: int) -> Sequence[QuotaState]:
        """Returns the quotas that were set, by user id, from after a position on."""
        users = [row["user_id"] for row in await self._pool.fetch(self._sql.list_quota_users, after, limit)]
        return [_state_from_row(row, None) for row in await self._pool.fetch(self._sql.select_quotas, users)]

    async def update(self, user_id: UserId, change: QuotaChange, etag: str, key: RequestKey | None) -> Quota:
        """Sets limits; who had those of everybody keeps the ones that are not named.

        Raises:
            EtagMismatch: `etag` is given and not the current one.
            RequestIdReused: the key belongs to another request.
        """

        async def act(connection: Connection) -> Quota:
            wanted = change.apply(await self._current(connection, user_id, etag))
            limits = wanted.running_jobs, wanted.queued_jobs, wanted.device_hours_per_day, wanted.storage_bytes
            return _quota_from_row(the_row(await connection.fetchrow(self._sql.upsert_quota, user_id, *limits)))

        return await answer_once(self._pool, self._sql, key, act, _QUOTA)

    async def delete(self, user_id: UserId, etag: str, key: RequestKey | None) -> Quota:
        """Takes a user's own limits away, if there are any; returns those that hold then.

        Raises:
            EtagMismatch: `etag` is given and not the current one.
            RequestIdReused: the key belongs to another request.
        """

        async def act(connection: Connection) -> Quota:
            await self._current(connection, user_id, etag)
            await connection.execute(self._sql.take_quota_away, user_id)
            return _quota_from_row(the_row(await connection.fetchrow(self._sql.select_quotas, [user_id])))

        return await answer_once(self._pool, self._sql, key, act, _QUOTA)

    async def _current(self, connection: Connection, user_id: UserId, etag: str) -> Quota:
        """What holds now; until the transaction ends nobody else changes it. Raises EtagMismatch."""
        await connection.execute(self._sql.take_quota_turn)
        current = _quota_from_row(the_row(await connection.fetchrow(self._sql.select_quotas, [user_id])))
        if etag not in ("", current.etag):
            raise EtagMismatch(etag, current.etag)
        return current

    async def forget_old_usage(self, age: timedelta) -> None:
        """Forgets device time that counts against nothing any more."""
        await self._pool.execute(self._sql.delete_old_device_usage, age)


async def find_room(
    connection: Connection, queries: Queries, owners: Sequence[UserId]
) -> Sequence[QuotaExceeded | None]:
    """Returns for each of the jobs that this transaction is to add, by its owner, why there is no room for it, or None.

    Nobody else adds jobs of an owner with a limit until the transaction ends.
    """
    rows = await connection.fetch(queries.select_submission_limits, owners)
    limited = {UserId(row["user_id"]): row for row in rows}
    if not limited:
        return [None] * len(owners)
    counted = [owner for owner, row in limited.items() if row["queued_jobs"] is not None]
    queued: dict[UserId, int] = {}
    if counted:
        # Counted only once it is this transaction's turn: what others have added by then is seen.
        await connection.execute(queries.take_submission_turns, counted)
        counts = await connection.fetch(queries.count_queued, counted)
        queued = {UserId(row["user_id"]): row["queued_now"] for row in counts}
    answers: list[QuotaExceeded | None] = []
    for owner in owners:
        refusal = _refusal(limited[owner], queued.get(owner, 0)) if owner in limited else None
        if refusal is None and owner in queued:
            queued[owner] += 1
        answers.append(refusal)
    return answers


def _refusal(row: Row, queued: int) -> QuotaExceeded | None:
    quota = Quota(UserId(row["user_id"]), queued_jobs=row["queued_jobs"], storage_bytes=row["storage_bytes"])
    try:
        check_submission(quota, queued, row["stored_now"])
    except QuotaExceeded as error:
        return error
    return None


def _state_from_row(row: Row, free_time: datetime | None) -> QuotaState:
    usage = QuotaUsage(
        running_jobs=row["running_now"],
        queued_jobs=row["queued_now"],
        device_hours=row["device_hours_now"],
        device_hours_free_time=free_time,
        storage_bytes=row["stored_now"],
    )
    return QuotaState(_quota_from_row(row), row["is_default"], usage)


def _quota_from_row(row: Row) -> Quota:
    return Quota(
        user_id=UserId(row["user_id"]),
        running_jobs=row["running_jobs"],
        queued_jobs=row["queued_jobs"],
        device_hours_per_day=row["device_hours_per_day"],
        storage_bytes=row["storage_bytes"],
        revision=row["revision"],
        update_time=row["update_time"],
    )


def _quota_to_json(quota: Quota) -> dict[str, Any]:
    return {**asdict(quota), "update_time": None if quota.update_time is None else quota.update_time.isoformat()}


def _quota_from_json(value: Mapping[str, Any]) -> Quota:
    update_time = value["update_time"]
    return Quota(**{**value, "update_time": None if update_time is None else datetime.fromisoformat(update_time)})


_QUOTA = AnswerCodec(_quota_to_json, _quota_from_json)
