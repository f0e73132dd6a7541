"""A scheduler that dies inside Create: what was answered is there, what was not is there once or not at all."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from meshkit.postgres.trouble import POSTGRES_TROUBLE
from meshkit.testing import Database
from scheduler_svc.store import submission_store
from tests.integration.scheduler.scheduler_stores import Stores, request, submission

SEEDS = 200
PLACES = ("job.create.before_insert", "job.create.before_commit", "after the commit")
TABLES = ("jobs", "request_ids", "job_events", "outbox")


async def test_two_hundred_deaths_inside_create(
    stores: Stores, other_replica: Stores, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An observer of another role: `pg_terminate_backend` cuts the store off as the kill of its process would.
    observer = await asyncpg.connect(database.superuser_dsn)
    try:
        for seed in range(SEEDS):
            await die_once(random.Random(seed), stores, other_replica, observer, monkeypatch)
    finally:
        await observer.close()
    counts = {table: await other_replica.pool.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}
    assert counts == dict.fromkeys(TABLES, SEEDS)


async def die_once(
    dice: random.Random,
    stores: Stores,
    other_replica: Stores,
    observer: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Submits at a replica that dies somewhere on the way, and again at another, as a client does."""
    place = dice.choice(PLACES)
    key = request(UUID(int=dice.getrandbits(128)))
    answered = None
    with monkeypatch.context() as dying:
        dying.setattr(submission_store, "failpoint", death_at(place, observer))
        try:
            answered = await stores.jobs.submit(submission(), key)
        except POSTGRES_TROUBLE:
            assert place != PLACES[-1]

    # Answered or not, the client repeats it: in the worst case nothing of the answer has reached it.
    repeated = await other_replica.jobs.submit(submission(), key)

    assert answered is None or answered.id == repeated.id
    assert (answered is None) == (place != PLACES[-1])


def death_at(place: str, observer: asyncpg.Connection) -> Callable[[str], Awaitable[None]]:
    async def failpoint(name: str) -> None:
        if name == place:
            statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            await observer.execute(f"{statement} AND pid <> pg_backend_pid() AND state = 'idle in transaction'")

    return failpoint
