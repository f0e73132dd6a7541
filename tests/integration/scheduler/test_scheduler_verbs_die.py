"""A scheduler that dies inside a verb: the same request again, wherever, and the verb has happened once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import uuid4

import asyncpg
import pytest

from meshkit.postgres.trouble import POSTGRES_TROUBLE
from meshkit.testing import Database
from scheduler_svc.domain.errors import JobNotFound
from scheduler_svc.domain.ids import JobId
from scheduler_svc.domain.job import Job
from scheduler_svc.domain.quota import Limit, Quota, QuotaChange
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store import request_store
from tests.integration.scheduler.scheduler_stores import GRACE, OWNER, Stores, request

Verb = Callable[[Stores, JobId, RequestKey], Awaitable[Job | None]]
PLACES = ("request.taken", "request.before_answer", "request.before_commit", "request.after_commit")

VERBS: dict[str, Verb] = {
    "pause": lambda stores, job_id, key: stores.jobs.pause(job_id, OWNER, key),
    "resume": lambda stores, job_id, key: stores.jobs.resume(job_id, OWNER, key),
    "stop": lambda stores, job_id, key: stores.jobs.stop(job_id, OWNER, GRACE, key),
    "retry": lambda stores, job_id, key: stores.jobs.retry(job_id, OWNER, from_scratch=False, key=key),
    "delete": lambda stores, job_id, key: stores.jobs.delete(job_id, OWNER, key),
}
EVENTS = {"pause": 2, "resume": 3, "stop": 2, "retry": 3}
"""In a job's history after the verb: the first is its submission, and some verbs need another before them."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", VERBS)
async def test_a_death_anywhere_in_a_verb_and_the_same_request_again_are_one_effect(
    stores: Stores,
    other_replica: Stores,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    place: str,
) -> None:
    job = await prepared(stores, verb)
    key = request(uuid4(), rpc=f"{verb}TrainingJob")
    ask = VERBS[verb]

    with monkeypatch.context() as dying:
        dying.setattr(request_store, "failpoint", death_at(place, database))
        with pytest.raises(POSTGRES_TROUBLE):
            await ask(stores, job.id, key)
    answers = [await ask(replica, job.id, key) for replica in (other_replica, stores)]

    assert answers[0] == answers[1]
    if verb == "delete":
        with pytest.raises(JobNotFound):
            await stores.jobs.get(job.id, OWNER)
    else:
        assert len(await stores.history(job.id)) == EVENTS[verb]
        assert answers[0] == await stores.jobs.get(job.id, OWNER)


@pytest.mark.parametrize("place", PLACES)
async def test_a_death_anywhere_in_a_change_of_a_quota_and_the_same_request_again_are_one_effect(
    stores: Stores, other_replica: Stores, database: Database, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    key = request(uuid4(), rpc="UpdateQuota")
    change = QuotaChange(frozenset({Limit.RUNNING_JOBS}), Quota(OWNER, running_jobs=3))

    with monkeypatch.context() as dying:
        dying.setattr(request_store, "failpoint", death_at(place, database))
        with pytest.raises(POSTGRES_TROUBLE):
            await stores.quotas.update(OWNER, change, "", key)
    again = await other_replica.quotas.update(OWNER, change, "", key)

    assert (again.running_jobs, again.revision) == (3, 1)
    assert (await stores.quotas.get(OWNER)).quota.revision == 1


async def prepared(stores: Stores, verb: str) -> Job:
    """A job that the verb can be applied to."""
    job = await stores.submit()
    if verb == "resume":
        return await stores.jobs.pause(job.id, OWNER)
    if verb == "retry":
        return await stores.jobs.stop(job.id, OWNER, GRACE)
    return job


def death_at(place: str, database: Database) -> Callable[[str], Awaitable[None]]:
    """At a place, everything that the store has with the database is cut off, as its process's death would do it."""

    async def failpoint(name: str) -> None:
        if name != place:
            return
        observer = await asyncpg.connect(database.superuser_dsn)
        try:
            statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            await observer.execute(f"{statement} AND pid <> pg_backend_pid() AND state = 'idle in transaction'")
        finally:
            await observer.close()
        if name == PLACES[-1]:
            # Committed: nothing is left to be cut off but the answer.
            raise asyncpg.ConnectionDoesNotExistError

    return failpoint
