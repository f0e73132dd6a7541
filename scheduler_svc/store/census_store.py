"""Counts the queue, the trainers and what waits for the scheduler itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from meshkit.postgres import Pool, Queries
from meshkit.telemetry.census import Reading
from scheduler_svc.domain.job import ACTIVE_STATES, DeviceClass, JobState, Recipe

_SECONDS = 5.0
"""A count that takes longer is not worth it."""
_DOING = ("ready", "busy", "draining", "gone")
_HELD = ("paused", "delayed", "limited")

_Counts = dict[tuple[str, ...], float]
"""Of what rows are counted by, mostly a default dict: one replica may not know yet what a newer one has written."""


class CensusStore:
    """Reads gauges. Each query walks an index of live rows only, however many jobs have ended."""

    def __init__(self, pool: Pool, queries: Queries, lease: timedelta) -> None:
        self._pool = pool
        self._sql = queries
        self._lease = lease

    async def count(self) -> Sequence[Reading]:
        """Returns everything that is counted; what there is none of is told as 0, not left out."""
        queue = await self._fetch(self._sql.count_queue)
        held = await self._fetch(self._sql.count_held)
        trainers = await self._fetch(self._sql.count_trainers, self._lease)
        (backlog,) = await self._fetch(self._sql.count_backlog)
        return [_jobs(queue, held), *_queue(queue), _trainers(trainers), *_backlog(backlog)]

    async def _fetch(self, query: str, *arguments: Any) -> Sequence[Any]:
        return await self._pool.fetch(query, *arguments, timeout=_SECONDS)


def _jobs(queue: Sequence[Any], held: Sequence[Any]) -> Reading:
    live = (JobState.QUEUED, *sorted(ACTIVE_STATES))
    counts: _Counts = defaultdict(float, {(state, recipe): 0 for state in live for recipe in Recipe})
    for row in queue:
        counts[JobState.QUEUED, row["recipe"]] += row["claimable"] + sum(row[why] for why in _HELD)
    for row in held:
        counts[row["state"], row["recipe"]] += row["jobs"]
    return Reading("reeltune_scheduler_jobs", "Live jobs", ("state", "kind"), counts)


def _queue(queue: Sequence[Any]) -> Sequence[Reading]:
    depth: _Counts = defaultdict(float, {(device_class,): 0 for device_class in DeviceClass})
    oldest: _Counts = defaultdict(float, {(device_class,): 0 for device_class in DeviceClass})
    held: _Counts = defaultdict(float, {(device_class, why): 0 for device_class in DeviceClass for why in _HELD})
    for row in queue:
        key = (row["device_class"],)
        depth[key] += row["claimable"]
        oldest[key] = max(oldest[key], row["oldest_seconds"])
        for why in _HELD:
            held[*key, why] += row[why]
    device_class = ("device_class",)
    return [
        Reading(
            "reeltune_scheduler_queue_depth",
            "Jobs that wait and that their owners' limits let run now",
            device_class,
            depth,
        ),
        Reading(
            "reeltune_scheduler_queue_oldest_age_seconds",
            "How long the oldest of them has been waiting; 0 when there is none",
            device_class,
            oldest,
        ),
        Reading(
            "reeltune_scheduler_queue_held",
            "Queued jobs that no trainer may take yet: paused by their owner, put off after a failure, "
            "or more than their owner's limits let run",
            ("device_class", "why"),
            held,
        ),
    ]


def _trainers(rows: Sequence[Any]) -> Reading:
    classes = [each for each in DeviceClass if each is not DeviceClass.ANY]
    counts: _Counts = {(device_class, doing): 0 for device_class in classes for doing in _DOING}
    counts |= Counter({(row["device_class"], row["doing"]): row["trainers"] for row in rows})
    return Reading(
        "reeltune_scheduler_trainers",
        "Known trainers; one that is gone is forgotten after a week",
        ("device_class", "state"),
        counts,
    )


def _backlog(row: Any) -> Sequence[Reading]:
    return [
        Reading("reeltune_scheduler_outbox_due", "Wake-ups that should be published", (), {(): row["wake_ups"]}),
        Reading(
            "reeltune_scheduler_outbox_oldest_age_seconds",
            "How long the oldest of them has been due",
            (),
            {(): row["oldest_seconds"]},
        ),
        Reading("reeltune_scheduler_garbage_due", "Prefixes of objects to be emptied", (), {(): row["garbage"]}),
        Reading(
            "reeltune_scheduler_last_sweep_timestamp_seconds",
            "When a sweeper of any replica was last at work, by the database's clock",
            (),
            {(): row["sweep_time"]},
        ),
    ]
