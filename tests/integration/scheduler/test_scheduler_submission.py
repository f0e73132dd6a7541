"""Submitting, listing and deleting, at the database."""

from __future__ import annotations

import asyncio
import random
from uuid import uuid4

import asyncpg
import pytest

from scheduler_svc.domain.errors import IllegalTransition, JobNotFound, RequestIdReused
from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.job import JobFilter, JobState
from tests.integration.scheduler.scheduler_stores import GRACE, OWNER, Stores, files_of, request, submission

STRANGER = UserId("usr_stranger")


async def test_one_request_id_makes_one_job_however_often_it_comes(stores: Stores, other_replica: Stores) -> None:
    key = request()
    replicas = [stores, other_replica] * 10
    jobs = await asyncio.gather(*(replica.jobs.submit(submission(), key) for replica in replicas))
    assert len({job.id for job in jobs}) == 1
    for table in ("jobs", "outbox", "request_ids", "job_events"):
        assert await stores.pool.fetchval(f"SELECT count(*) FROM {table}") == 1


async def test_another_body_under_the_same_request_id_is_refused(stores: Stores) -> None:
    request_id = uuid4()
    await stores.jobs.submit(submission(), request(request_id))
    with pytest.raises(RequestIdReused):
        await stores.jobs.submit(submission(), request(request_id, "other body"))
    assert await stores.jobs.submit(submission(STRANGER), request(request_id, "other body", caller_id=STRANGER))
    assert await stores.pool.fetchval("SELECT count(*) FROM jobs") == 2


async def test_the_request_of_a_deleted_job_does_not_bring_it_back(stores: Stores) -> None:
    key = request()
    job = await stores.jobs.submit(submission(), key)
    await stores.jobs.delete(job.id, OWNER)
    with pytest.raises(JobNotFound):
        await stores.jobs.submit(submission(), key)


async def test_a_strangers_job_is_not_there(stores: Stores) -> None:
    key = await stores.running()
    for call in (
        stores.jobs.get(key.job_id, STRANGER),
        stores.jobs.stop(key.job_id, STRANGER, GRACE),
        stores.jobs.delete(key.job_id, STRANGER),
        stores.jobs.get_artifact(key.job_id, STRANGER),
    ):
        with pytest.raises(JobNotFound):
            await call
    assert (await stores.jobs.get(key.job_id, OWNER)).state is JobState.RUNNING


async def test_a_deleted_job_leaves_no_row_and_its_objects_to_collect(stores: Stores) -> None:
    key = await stores.running()
    await stores.attempts.commit_checkpoint(files_of(key, step=1))
    with pytest.raises(IllegalTransition):
        await stores.jobs.delete(key.job_id, OWNER)
    await stores.attempts.complete(files_of(key), None)
    await stores.jobs.delete(key.job_id, OWNER)
    for table in ("jobs", "job_events", "attempts", "checkpoints", "artifacts", "uploads"):
        assert await stores.pool.fetchval(f"SELECT count(*) FROM {table}") == 0
    prefixes = [row["prefix"] for row in await stores.pool.fetch("SELECT prefix FROM garbage")]
    assert f"jobs/{key.job_id}/" in prefixes


async def test_paging_is_complete_and_stable_while_jobs_come_and_go(stores: Stores) -> None:
    jobs = [(await stores.submit()).id for _ in range(25)]
    seen: list[str] = []
    after = None
    while page := await stores.jobs.list_page(OWNER, JobFilter(), after, 4):
        seen.extend(job.id for job in page)
        after = (page[-1].create_time, page[-1].id)
        await stores.submit()
        await stores.jobs.delete(page[0].id, OWNER)
    assert seen == jobs[::-1]


async def test_filters(stores: Stores) -> None:
    left = await stores.submit(name="Left turn 100%_x", model_id="mdl_a")
    right = await stores.submit(name="right turn", model_id="mdl_b")
    await stores.jobs.stop(right.id, OWNER, GRACE)

    async def ids(**conditions: object) -> list[str]:
        return [job.id for job in await stores.jobs.list_page(OWNER, JobFilter(**conditions), None, 10)]  # type: ignore[arg-type]

    assert await ids(name_parts=("TURN",)) == [right.id, left.id]
    assert await ids(name_parts=("turn", "100%_")) == [left.id]
    assert await ids(states=frozenset({JobState.QUEUED})) == [left.id]
    assert await ids(model_id="mdl_b") == [right.id]
    assert await ids(model_id_not=("mdl_b",)) == [left.id]
    assert await ids(name="right turn") == [right.id]
    assert await ids(is_empty=True) == []


async def test_jobs_that_come_together_are_taken_in_the_order_in_which_they_came(stores: Stores) -> None:
    jobs = await asyncio.gather(*(stores.submit() for _ in range(50)))
    listed = await stores.jobs.list_page(OWNER, JobFilter(), None, 100)
    assert [job.id for job in listed] == [job.id for job in jobs][::-1]
    assert len({job.create_time for job in jobs}) < len(jobs), "they were not taken together"
    assert list(listed)[::-1] == list(jobs)


async def test_a_job_that_the_database_refuses_does_not_take_its_neighbours_along(stores: Stores) -> None:
    refused = submission(name="nul \0 byte")
    answers = await asyncio.gather(
        stores.submit(), stores.jobs.submit(refused, request()), stores.submit(), return_exceptions=True
    )
    assert [isinstance(answer, asyncpg.DataError) for answer in answers] == [False, True, False]
    assert await stores.pool.fetchval("SELECT count(*) FROM jobs") == 2
    assert await stores.pool.fetchval("SELECT count(*) FROM request_ids") == 0


async def test_neighbours_with_one_request_id_get_one_job(stores: Stores, other_replica: Stores) -> None:
    keys = [request() for _ in range(5)]
    submissions = [(replica, key) for key in keys for replica in (stores, other_replica) for _ in range(4)]
    dice = random.Random(7)
    for _ in range(5):
        dice.shuffle(submissions)
        jobs = await asyncio.gather(*(replica.jobs.submit(submission(), key) for replica, key in submissions))
        assert len({job.id for job in jobs}) == len(keys)
    assert await stores.pool.fetchval("SELECT count(*) FROM jobs") == len(keys)
