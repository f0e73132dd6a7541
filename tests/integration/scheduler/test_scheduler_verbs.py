"""What owners do with their jobs, at the database: pause, resume, retry, update, and each of them once per request."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from scheduler_svc.domain.errors import EtagMismatch, IllegalTransition, JobNotFound, RequestIdReused
from scheduler_svc.domain.events import Report, Started, StateChange
from scheduler_svc.domain.files import FileSet
from scheduler_svc.domain.ids import AttemptKey, JobId, UserId
from scheduler_svc.domain.job import Job, JobState, JobUpdate, Progress, StateReason
from scheduler_svc.domain.lifecycle import LEGAL_CHANGES, LEGAL_PAIRS
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.rows import job_from_json, job_to_json
from tests.integration.scheduler.scheduler_stores import GRACE, OWNER, Stores, check_history, files_of, request

STRANGER = UserId("usr_stranger")
OWNERS_REASONS = {"PAUSED", "RESUMED", "RETRY_REQUESTED"}


async def reasons(stores: Stores, job_id: JobId) -> list[str]:
    """Why the job changed, each time."""
    events = await stores.history(job_id)
    check_history(events)
    return [str(event.body.reason) for event in events if isinstance(event.body, StateChange)]


async def wake_ups(stores: Stores, job_id: JobId) -> list[int]:
    """Generations that trainers are to be told of."""
    rows = await stores.pool.fetch("SELECT generation FROM outbox WHERE job_id = $1 ORDER BY 1", job_id)
    return [row["generation"] for row in rows]


async def failed(stores: Stores, reason: StateReason = StateReason.BAD_DATA) -> AttemptKey:
    """A job that failed at once, with two checkpoints and some progress."""
    key = await stores.running()
    for step in (5, 10):
        await stores.attempts.commit_checkpoint(files_of(key, step=step))
    await stores.attempts.record(key, [Report(2, Progress(phase="training", step=12, total_steps=20, fraction=0.6))])
    await stores.attempts.fail(key, reason, "clip 7 is black", dice=0)
    return key


async def test_a_paused_job_is_not_claimed_until_it_is_resumed(stores: Stores, other_replica: Stores) -> None:
    job = await stores.submit()
    paused = await stores.jobs.pause(job.id, OWNER)
    assert (paused.state, paused.reason, paused.is_paused) == (JobState.QUEUED, StateReason.PAUSED, True)
    worker = await stores.worker()
    assert await other_replica.attempts.claim(worker) is None
    assert await stores.jobs.pause(job.id, OWNER) == paused, "pausing twice is no error and changes nothing"
    resumed = await other_replica.jobs.resume(job.id, OWNER)
    assert (resumed.reason, resumed.is_paused, resumed.generation) == (StateReason.RESUMED, False, 2)
    assert await stores.jobs.resume(job.id, OWNER) == resumed
    assert await wake_ups(stores, job.id) == [1, 2]
    assert (await stores.claimed(worker)).job_id == job.id
    assert await reasons(stores, job.id) == ["UNSPECIFIED", "PAUSED", "RESUMED", "UNSPECIFIED"]


async def test_nobody_is_woken_for_a_paused_job(stores: Stores) -> None:
    job = await stores.submit()
    await stores.jobs.pause(job.id, OWNER)
    await stores.pool.execute("UPDATE jobs SET republish_time = now() - interval '1 h'")
    await stores.outbox.republish_waiting()
    assert await wake_ups(stores, job.id) == [], "and the wake-up from before the pause is dropped"
    await stores.outbox.republish_all()
    assert await wake_ups(stores, job.id) == []


async def test_a_paused_job_can_be_stopped_or_deleted(stores: Stores) -> None:
    deleted, kept = await stores.submit(), await stores.submit()
    for job in (deleted, kept):
        await stores.jobs.pause(job.id, OWNER)
    await stores.jobs.delete(deleted.id, OWNER)
    stopped = await stores.jobs.stop(kept.id, OWNER, GRACE)
    assert (stopped.state, stopped.is_paused) == (JobState.STOPPED, False)
    assert not (await stores.jobs.retry(kept.id, OWNER, from_scratch=False)).is_paused, "a pause ends with the job"


async def test_a_lost_lease_pauses_nothing(stores: Stores) -> None:
    await stores.submit()
    key = await stores.claimed()
    with pytest.raises(IllegalTransition) as refused:
        await stores.jobs.pause(key.job_id, OWNER)
    assert (refused.value.state, refused.value.allowed) == (JobState.STARTING, (JobState.QUEUED,))
    await stores.expire(key.job_id)
    (job,) = await stores.sweep()
    assert (job.state, job.is_paused) == (JobState.QUEUED, False)


async def test_a_retry_goes_on_from_the_newest_checkpoint(stores: Stores) -> None:
    key = await failed(stores)
    retried = await stores.jobs.retry(key.job_id, OWNER, from_scratch=False)
    assert (retried.state, retried.reason, retried.generation) == (JobState.QUEUED, StateReason.RETRY_REQUESTED, 2)
    assert (retried.end_time, retried.attempt, retried.progress.step) == (None, 1, 12)
    assert await wake_ups(stores, key.job_id) == [1, 2]
    again = await stores.claimed()
    assert again == AttemptKey(key.job_id, 2)
    steps = [checkpoint.checkpoint_step for checkpoint in await stores.attempts.list_checkpoints(key.job_id)]
    assert steps == [10, 5]
    await stores.attempts.record(again, [Report(1, Started(20))])
    assert await stores.attempts.complete(files_of(again), None) is JobState.COMPLETED
    assert (await reasons(stores, key.job_id))[3:] == ["BAD_DATA", "RETRY_REQUESTED", *["UNSPECIFIED"] * 3]


async def test_a_retry_from_scratch_has_nothing_to_go_on_from(stores: Stores) -> None:
    key = await failed(stores)
    retried = await stores.jobs.retry(key.job_id, OWNER, from_scratch=True)
    assert retried.progress == Progress()
    assert await stores.attempts.list_checkpoints(key.job_id) == []
    collected = {row["prefix"] for row in await stores.pool.fetch("SELECT prefix FROM garbage")}
    assert {f"jobs/{key.job_id}/attempts/1/checkpoints/{step}/" for step in (5, 10)} <= collected


async def test_a_retry_releases_a_quarantined_job_with_all_its_tries(stores: Stores) -> None:
    key = await stores.running()
    for _ in range(2):
        for number in range(3):
            await stores.attempts.fail(key, StateReason.CRASHED, "signal 9", dice=0)
            job = await stores.jobs.get(key.job_id, OWNER)
            assert job.state is (JobState.FAILED if number == 2 else JobState.QUEUED)
            if number < 2:
                await stores.make_due(key.job_id)
                key = await stores.claimed()
        assert job.reason is StateReason.QUARANTINED
        await stores.jobs.retry(key.job_id, OWNER, from_scratch=False)
        counts = await stores.pool.fetchrow("SELECT infrastructure_failures, crashes FROM jobs")
        assert tuple(counts or ()) == (0, 0)
        key = await stores.claimed()
    check_history(await stores.history(key.job_id))


async def test_what_a_stop_saved_stays_until_the_retry_has_something_better(stores: Stores) -> None:
    key = await stores.running()
    await stores.jobs.stop(key.job_id, OWNER, GRACE)
    await stores.attempts.complete(files_of(key), None)
    first = await stores.jobs.get_artifact(key.job_id, OWNER)
    for end in (JobState.STOPPED, JobState.COMPLETED):
        retried = await stores.jobs.retry(key.job_id, OWNER, from_scratch=True)
        assert retried.has_artifact
        assert await stores.jobs.get_artifact(key.job_id, OWNER) == first
        again = await stores.claimed()
        if end is JobState.STOPPED:
            await stores.jobs.stop(key.job_id, OWNER, GRACE)
            await stores.attempts.complete(FileSet(again, ()), None)
            assert await stores.jobs.get_artifact(key.job_id, OWNER) == first, "nothing was published in its place"
        else:
            await stores.attempts.complete(files_of(again), None)
    replaced = await stores.jobs.get_artifact(key.job_id, OWNER)
    assert replaced.files.key == again
    collected = {row["prefix"] for row in await stores.pool.fetch("SELECT prefix FROM garbage")}
    assert f"jobs/{key.job_id}/attempts/1/" in collected


@pytest.mark.parametrize("state", ["QUEUED", "STARTING", "RUNNING", "STOPPING", "COMPLETED"])
async def test_a_job_that_has_not_stopped_or_failed_is_not_retried(stores: Stores, state: str) -> None:
    job = await stores.submit()
    if state != "QUEUED":
        key = await stores.claimed()
    if state in ("RUNNING", "STOPPING", "COMPLETED"):
        await stores.attempts.record(key, [Report(1, Started(1))])
    if state == "STOPPING":
        await stores.jobs.stop(job.id, OWNER, GRACE)
    if state == "COMPLETED":
        await stores.attempts.complete(files_of(key), None)
    before = await stores.history(job.id)
    for from_scratch in (False, True):
        with pytest.raises(IllegalTransition) as refused:
            await stores.jobs.retry(job.id, OWNER, from_scratch=from_scratch)
        assert (refused.value.state, refused.value.allowed) == (state, ("STOPPED", "FAILED"))
    assert await stores.history(job.id) == before


async def test_updates_of_name_and_priority(stores: Stores) -> None:
    job = await stores.submit(name="old")
    named = await stores.jobs.update(job.id, OWNER, JobUpdate(name="new", etag=job.etag))
    assert (named.name, named.priority, named.sequence) == ("new", 0, 1)
    with pytest.raises(EtagMismatch):
        await stores.jobs.update(job.id, OWNER, JobUpdate(priority=5, etag=job.etag))
    key = await stores.claimed()
    await stores.attempts.fail(key, StateReason.BAD_DATA, "", dice=0)
    ranked = await stores.jobs.update(job.id, OWNER, JobUpdate(priority=-5, etag=named.etag))
    assert (ranked.name, ranked.priority, ranked.state) == ("new", -5, JobState.FAILED)
    assert len({job.etag, named.etag, ranked.etag}) == 3


async def test_of_twenty_updates_of_one_version_one_is_taken(stores: Stores, other_replica: Stores) -> None:
    job = await stores.submit()
    updates = (
        replica.jobs.update(job.id, OWNER, JobUpdate(name=str(number), etag=job.etag))
        for number, replica in enumerate([stores, other_replica] * 10)
    )
    outcomes = await asyncio.gather(*updates, return_exceptions=True)
    taken = [outcome for outcome in outcomes if isinstance(outcome, Job)]
    assert len(taken) == 1
    assert all(isinstance(outcome, EtagMismatch) for outcome in outcomes if outcome is not taken[0])
    assert (await stores.jobs.get(job.id, OWNER)).name == taken[0].name


async def test_checkpoints_are_listed_newest_first_and_page_by_page(stores: Stores) -> None:
    key = await failed(stores)
    await stores.jobs.retry(key.job_id, OWNER, from_scratch=False)
    again = await stores.claimed()
    await stores.attempts.commit_checkpoint(files_of(again, step=7))
    found, after = [], None
    while page := await stores.jobs.list_checkpoints(key.job_id, OWNER, after, 1):
        found += page
        after = (page[-1].attempt, page[-1].step)
    assert [(each.attempt, each.step, each.is_newest) for each in found] == [
        (2, 7, True),
        (1, 10, False),
        (1, 5, False),
    ]
    assert {each.size_bytes for each in found} == {3}
    with pytest.raises(JobNotFound):
        await stores.jobs.list_checkpoints(key.job_id, STRANGER, None, 1)


Verb = Callable[[Stores, JobId, RequestKey | None], Awaitable[Any]]
VERBS: dict[str, tuple[str, Verb]] = {
    "pause": ("queued", lambda stores, job_id, key: stores.jobs.pause(job_id, OWNER, key)),
    "resume": ("paused", lambda stores, job_id, key: stores.jobs.resume(job_id, OWNER, key)),
    "stop": ("queued", lambda stores, job_id, key: stores.jobs.stop(job_id, OWNER, GRACE, key)),
    "retry": ("failed", lambda stores, job_id, key: stores.jobs.retry(job_id, OWNER, from_scratch=True, key=key)),
    "update": ("queued", lambda stores, job_id, key: stores.jobs.update(job_id, OWNER, JobUpdate(name="n"), key)),
    "delete": ("failed", lambda stores, job_id, key: stores.jobs.delete(job_id, OWNER, key)),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_that_comes_twenty_times_has_one_effect_and_one_answer(
    stores: Stores, other_replica: Stores, verb: str
) -> None:
    begin, act = VERBS[verb]
    job_id = (await failed(stores)).job_id if begin == "failed" else (await stores.submit()).id
    if begin == "paused":
        await stores.jobs.pause(job_id, OWNER)
    before = len(await stores.history(job_id))
    key = request(rpc=verb)
    answers = await asyncio.gather(*(act(replica, job_id, key) for replica in [stores, other_replica] * 10))
    assert all(answer == answers[0] for answer in answers)
    effects = {"update": 0, "delete": -before}.get(verb, 1)
    assert len(await stores.history(job_id)) == before + effects
    if verb == "update":
        assert answers[0].revision == 2
    if verb != "delete":
        await stores.jobs.delete(job_id, OWNER)
    assert await act(other_replica, job_id, key) == answers[0], "whatever has become of the job since"
    with pytest.raises(RequestIdReused):
        await act(stores, job_id, RequestKey(OWNER, key.request_id, verb, "another body"))


@pytest.mark.parametrize("verb", VERBS)
async def test_a_strangers_verb_finds_no_job_and_keeps_no_request(stores: Stores, verb: str) -> None:
    job = await stores.submit()
    await stores.pool.execute("UPDATE jobs SET owner_id = $1", STRANGER)
    key = request(rpc=verb)
    with pytest.raises(JobNotFound):
        await VERBS[verb][1](stores, job.id, key)
    assert await stores.requests.find(key) is None
    assert len(await stores.history(job.id)) == 1


async def test_a_job_as_an_answer_is_kept_whole(stores: Stores) -> None:
    key = await failed(stores)
    nan = Progress(phase="training", step=3, total_steps=10, fraction=0.3, loss=float("inf"))
    job = await stores.jobs.retry(key.job_id, OWNER, from_scratch=False)
    again = await stores.claimed()
    await stores.attempts.record(again, [Report(1, Started(3)), Report(2, nan)])
    for each in (job, await stores.submit(), await stores.jobs.get(key.job_id, OWNER)):
        assert job_from_json(json.loads(json.dumps(job_to_json(each), allow_nan=False))) == each


async def test_the_database_takes_owners_reasons_for_owners_changes_only(stores: Stores) -> None:
    """Every pair of states for every reason: what the life cycle leaves to the owner is refused for anything else."""
    jobs = {state: (await stores.submit()).id for state in JobState}
    await stores.pool.execute("ALTER TABLE jobs DISABLE TRIGGER jobs_legal_transition")
    for state, job_id in jobs.items():
        await stores.pool.execute(_change_to(state), job_id, "UNSPECIFIED")
    await stores.pool.execute("ALTER TABLE jobs ENABLE TRIGGER jobs_legal_transition")
    for source, target in itertools.product(JobState, JobState):
        for reason in StateReason:
            is_taken = await _is_taken(stores, _change_to(target), jobs[source], reason)
            is_legal = (source, target, reason) in LEGAL_CHANGES
            is_owners = (
                reason in OWNERS_REASONS or source in ("STOPPED", "FAILED") or (source, target) == ("QUEUED",) * 2
            )
            assert is_taken == (is_legal if is_owners else (source, target) in LEGAL_PAIRS), (source, target, reason)


def _change_to(state: JobState) -> str:
    end_time = "now()" if state in ("COMPLETED", "STOPPED", "FAILED") else "NULL"
    lease = "now()" if state in ("STARTING", "RUNNING", "STOPPING") else "NULL"
    times = f"end_time = {end_time}, lease_expire_time = {lease}, artifact_attempt = attempt"
    return f"UPDATE jobs SET state = '{state}', reason = $2, {times} WHERE id = $1"


async def _is_taken(stores: Stores, statement: str, job_id: JobId, reason: str) -> bool:
    async with stores.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(statement, job_id, reason)
        except asyncpg.CheckViolationError:
            return False
        finally:
            await transaction.rollback()
        return True
