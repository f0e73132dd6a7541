"""A stop and whatever may cross it, on two replicas: 500 races, each held against the model of the life cycle.

`REELTUNE_RACES_SEED=N` runs the races of a seed again; the seed is in the message of every failure.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from scheduler_svc.domain.errors import IllegalTransition, StaleAttempt
from scheduler_svc.domain.events import JobEvent, Report, Started, StateChange
from scheduler_svc.domain.ids import AttemptKey, JobId, WorkerId
from scheduler_svc.domain.job import ACTIVE_STATES, Job, JobState, JobUpdate, StateReason
from tests.integration.scheduler.scheduler_stores import GRACE, OWNER, Stores, check_history, files_of, request

RACES = 500
FAILURES = (StateReason.CRASHED, StateReason.PREEMPTED, StateReason.BAD_DATA, StateReason.STORAGE_UNAVAILABLE)
Move = Callable[[Stores], Awaitable[Any]]


@dataclass
class Race:
    """A job in some state, its last attempt if it had one, and the dice."""

    dice: random.Random
    job_id: JobId
    key: AttemptKey
    workers: tuple[WorkerId, WorkerId]

    def rivals(self) -> dict[str, Move]:
        """Everything that may cross a stop."""
        reason = self.dice.choice(FAILURES)
        return {
            "complete": lambda replica: replica.attempts.complete(files_of(self.key), None),
            "fail": lambda replica: replica.attempts.fail(self.key, reason, "", dice=0),
            "pause": lambda replica: replica.jobs.pause(self.job_id, OWNER),
            "resume": lambda replica: replica.jobs.resume(self.job_id, OWNER),
            "retry": lambda replica: replica.jobs.retry(self.job_id, OWNER, from_scratch=False),
            "retry from scratch": lambda replica: replica.jobs.retry(self.job_id, OWNER, from_scratch=True),
            "rename": lambda replica: replica.jobs.update(self.job_id, OWNER, JobUpdate(name="other")),
            "claim": lambda replica: replica.attempts.claim(self.dice.choice(self.workers)),
            "checkpoint": lambda replica: replica.attempts.commit_checkpoint(files_of(self.key, step=7)),
            "lose the lease": self._lose_lease,
        }

    async def _lose_lease(self, replica: Stores) -> None:
        await replica.pool.execute(
            "UPDATE jobs SET lease_expire_time = now() WHERE id = $1 AND lease_expire_time IS NOT NULL", self.job_id
        )
        await replica.sweep()


async def test_five_hundred_races_of_a_stop(
    stores: Stores, other_replica: Stores, record_property: pytest.RecordProperty
) -> None:
    """Promise: stop wins over what comes later, has one effect however often it is sent, and keeps its answer."""
    seed = int(os.environ.get("REELTUNE_RACES_SEED") or random.SystemRandom().randrange(2**32))
    record_property("seed", seed)
    dice = random.Random(seed)
    workers = (await stores.worker(), await stores.worker())
    seen: set[str] = set()
    for number in range(RACES):
        race, state = await _begin(stores, dice, workers)
        names = dice.sample(sorted(race.rivals()), dice.randrange(1, 4))
        try:
            seen |= await _run(race, names, (stores, other_replica))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, race {number}, {state} against {names}: {error}") from error
        await stores.pool.execute("DELETE FROM jobs")
    assert {"QUEUED", "STOPPED", "STOPPING", "COMPLETED", "FAILED"} <= seen


async def _begin(stores: Stores, dice: random.Random, workers: tuple[WorkerId, WorkerId]) -> tuple[Race, str]:
    """Brings a new job into some state that its owner, a trainer or chance can bring it to."""
    job = await stores.submit()
    race = Race(dice, job.id, AttemptKey(job.id, 0), workers)
    state = dice.choice(["queued", "paused", "starting", "running", "running", "running", "failed", "stopped"])
    if state == "paused":
        await stores.jobs.pause(job.id, OWNER)
    if state in ("queued", "paused"):
        return race, state
    race.key = await stores.claimed(dice.choice(workers))
    if state == "starting":
        return race, state
    await stores.attempts.record(race.key, [Report(1, Started(10))])
    await stores.attempts.commit_checkpoint(files_of(race.key, step=5))
    if state == "failed":
        await stores.attempts.fail(race.key, StateReason.BAD_DATA, "", dice=0)
    if state == "stopped":
        await stores.jobs.stop(job.id, OWNER, GRACE)
        await stores.attempts.complete(files_of(race.key), None)
    return race, state


async def _run(race: Race, names: list[str], replicas: tuple[Stores, Stores]) -> set[str]:
    """Lets a stop, sent twice under one id, cross the rivals; returns the states that were reached."""
    dice, stop_key = race.dice, request(rpc="StopTrainingJob")
    rivals = race.rivals()

    async def stop(replica: Stores) -> Job:
        return await replica.jobs.stop(race.job_id, OWNER, GRACE, stop_key)

    moves = [stop, stop, *(rivals[name] for name in names)]
    places = list(range(len(moves)))
    dice.shuffle(places)
    starts = [(place, dice.choice(replicas), dice.random() * 0.004) for place in places]

    async def make(place: int, replica: Stores, delay: float) -> tuple[int, Any]:
        await asyncio.sleep(delay)  # not to wait for anything: to cross at another moment each time
        try:
            return place, await moves[place](replica)
        except (IllegalTransition, StaleAttempt) as refused:
            return place, refused

    outcomes = dict(await asyncio.gather(*(make(*start) for start in starts)))
    stops = [outcomes[place] for place in (0, 1)]
    repeated = [await make(0, replica, 0) for replica in replicas]
    await _check(race, replicas[0], [*stops, *(outcome for _, outcome in repeated)])
    history = await replicas[0].history(race.job_id)
    return {str(event.body.target) for event in history if isinstance(event.body, StateChange)}


async def _check(race: Race, stores: Stores, stops: list[Any]) -> None:
    history = await stores.history(race.job_id)
    job = await stores.jobs.get(race.job_id, OWNER)
    check_history(history)
    assert job.sequence == len(history)
    answers = [stop for stop in stops if isinstance(stop, Job)]
    assert all(answer == answers[0] for answer in answers), "one request, one answer"
    if answers:
        assert isinstance(stops[-1], Job), "what was answered once stays answered"
        _check_stop(history, answers[0])
    await _check_rows(stores, job)


def _check_stop(history: list[JobEvent], answer: Job) -> None:
    """The stop happened where its answer says, once; and nothing completes after it that was not retried."""
    told = history[answer.sequence - 1].body
    assert isinstance(told, StateChange)
    assert (told.target, told.reason) == (answer.state, "STOP_REQUESTED")
    for event in history[answer.sequence :]:
        if isinstance(event.body, StateChange):
            if event.body.reason == "RETRY_REQUESTED":
                break
            assert event.body.target in ("STOPPED", "FAILED"), f"{event.body.target} after the stop"


async def _check_rows(stores: Stores, job: Job) -> None:
    assert not job.is_paused or job.state is JobState.QUEUED
    wake_up = await stores.pool.fetchval(
        "SELECT count(*) FROM outbox WHERE job_id = $1 AND generation = $2", job.id, job.generation
    )
    assert wake_up == 1 or job.state is not JobState.QUEUED, "a job waits and nobody will be told"
    attempts = await stores.pool.fetch("SELECT attempt FROM attempts WHERE job_id = $1 AND end_time IS NULL", job.id)
    expected = [job.attempt] if job.state in ACTIVE_STATES else []
    assert [row["attempt"] for row in attempts] == expected, "an attempt is open for each job that a trainer has"
    artifact = await stores.pool.fetchval("SELECT attempt FROM artifacts WHERE job_id = $1", job.id)
    assert job.has_artifact == (artifact is not None)
    assert job.state is not JobState.COMPLETED or artifact == job.attempt


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING"])
async def test_a_stop_that_is_repeated_after_the_end_tells_of_the_stop(stores: Stores, state: str) -> None:
    key = await stores.running() if state == "RUNNING" else AttemptKey((await stores.submit()).id, 0)
    stop_key = request(rpc="StopTrainingJob")
    first = await stores.jobs.stop(key.job_id, OWNER, GRACE, stop_key)
    if state == "RUNNING":
        assert await stores.attempts.complete(files_of(key), None) is JobState.STOPPED
    with pytest.raises(IllegalTransition):
        await stores.jobs.stop(key.job_id, OWNER, GRACE)
    assert await stores.jobs.stop(key.job_id, OWNER, timedelta(seconds=5), stop_key) == first
    await stores.jobs.delete(key.job_id, OWNER)
    assert await stores.jobs.stop(key.job_id, OWNER, GRACE, stop_key) == first
