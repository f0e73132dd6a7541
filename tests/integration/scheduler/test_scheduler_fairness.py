"""The trainers are shared fairly: the claim follows the rule, whoever claims at the same time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta

import pytest

from meshkit.postgres import transaction
from scheduler_svc.domain.claim_order import next_claim
from scheduler_svc.domain.ids import AttemptKey, UserId, WorkerId
from scheduler_svc.domain.job import DeviceClass, JobState, Needs, Recipe, StateReason
from tests.integration.scheduler.scheduler_stores import Stores

A, B = UserId("usr_a"), UserId("usr_b")


async def claim_order(stores: Stores) -> list[str]:
    """The owners in the order in which they were served."""
    rows = await stores.pool.fetch(
        "SELECT owner_id FROM attempts JOIN jobs ON jobs.id = job_id ORDER BY attempts.create_time"
    )
    return [row["owner_id"] for row in rows]


async def finish(stores: Stores, key: AttemptKey) -> None:
    """Ends an attempt for good."""
    await stores.attempts.fail(key, StateReason.BAD_DATA, "", dice=0)


async def test_fifty_jobs_of_one_delay_the_only_job_of_another_by_one_claim_at_most(stores: Stores) -> None:
    worker = await stores.worker()
    for _ in range(50):
        await stores.submit(A)
    await finish(stores, await stores.claimed(worker))
    late = await stores.submit(B)
    taken = [await stores.claimed(worker)]
    await finish(stores, taken[0])
    taken.append(await stores.claimed(worker))
    assert late.id in {key.job_id for key in taken}
    assert (await claim_order(stores))[:2] == [A, B], "who was never served goes first"


async def test_owners_with_equally_many_running_jobs_take_turns(stores: Stores) -> None:
    worker = await stores.worker()
    for owner in (A, A, A, B, B, B):
        await stores.submit(owner)
    for _ in range(6):
        await finish(stores, await stores.claimed(worker))
    assert await claim_order(stores) == [A, B, A, B, A, B]


async def test_an_owner_is_served_by_priority_then_by_age(stores: Stores) -> None:
    first, low, high = [(await stores.submit(A, priority=priority)).id for priority in (0, -5, 5)]
    second = (await stores.submit(A)).id
    assert [(await stores.claimed()).job_id for _ in range(4)] == [high, first, second, low]


async def test_claims_that_cross_on_two_replicas_are_as_fair_as_one_after_the_other(
    stores: Stores, other_replica: Stores
) -> None:
    for _ in range(20):
        await stores.submit(A)
    await stores.submit(B)
    workers = [await stores.worker() for _ in range(12)]
    replicas = (stores, other_replica)
    jobs = await asyncio.gather(*(replicas[number % 2].attempts.claim(worker) for number, worker in enumerate(workers)))
    claimed = [job.id for job in jobs if job is not None]
    assert len(claimed) == len(set(claimed)) == 12
    assert B in (await claim_order(stores))[:2]


async def test_who_stands_still_in_the_middle_of_a_claim_loses_the_turn(stores: Stores, other_replica: Stores) -> None:
    job = await stores.submit()
    worker = await stores.worker()
    async with other_replica.pool.acquire() as connection:
        frozen = connection.transaction()
        await frozen.start()
        await connection.execute(other_replica.attempts._sql.take_claim_turn)
        assert (await stores.claimed(worker)).job_id == job.id
    assert await other_replica.attempts.claim(worker) is None, "and its replica goes on with another connection"


async def test_a_job_that_its_owner_changes_right_now_holds_nobody_up(stores: Stores) -> None:
    changing, other = await stores.submit(A, priority=1), await stores.submit(A)
    async with transaction(stores.pool) as connection:
        await connection.execute(stores.jobs._sql.lock_job_of_owner, changing.id, A)
        assert (await stores.claimed()).job_id == other.id


@pytest.mark.parametrize(
    "needs",
    [
        {"device_class": DeviceClass.CUDA},
        {"device_count": 2},
        {"device_memory_bytes": 16 * 10**9},
        {"recipe": Recipe.REHEARSAL},
        {"is_4bit": True},
    ],
)
async def test_a_worker_that_lacks_one_thing_gets_nothing(stores: Stores, needs: dict[str, object]) -> None:
    job = await stores.submit(**{"is_4bit": False, **needs})
    small = await stores.worker("CPU", can_train_4bit=False, memory_bytes=8 * 10**9)
    assert await stores.attempts.claim(small) is None
    large = await stores.worker("CUDA", memory_bytes=16 * 10**9, device_count=2, recipes=list(Recipe))
    assert (await stores.claimed(large)).job_id == job.id


async def test_a_paused_job_and_a_draining_worker_stay_alone(stores: Stores) -> None:
    paused = await stores.submit(A, priority=9)
    await stores.pool.execute("UPDATE jobs SET is_paused = true WHERE id = $1", paused.id)
    job = await stores.submit(A)
    draining = await stores.worker()
    await stores.pool.execute("UPDATE workers SET drain_time = now() WHERE id = $1", draining)
    assert await stores.attempts.claim(draining) is None
    worker = await stores.worker()
    assert (await stores.claimed(worker)).job_id == job.id
    assert await stores.attempts.claim(worker) is None


async def test_a_job_goes_back_to_the_worker_that_failed_it_only_when_no_other_is_idle(stores: Stores) -> None:
    first = await stores.worker()
    await stores.submit()
    key = await stores.claimed(first)
    other = await stores.worker()
    await stores.attempts.fail(key, StateReason.CRASHED, "", dice=0)
    await stores.make_due(key.job_id)
    assert await stores.attempts.claim(first) is None, "the other one is idle"
    await stores.submit(B)
    assert (await stores.claimed(first)).job_id != key.job_id, "it takes the next job instead"
    assert (await stores.claimed(other)).job_id == key.job_id
    await stores.attempts.fail(AttemptKey(key.job_id, 2), StateReason.CRASHED, "", dice=0)
    await stores.make_due(key.job_id)
    assert (await stores.claimed(other)).job_id == key.job_id, "the first one is busy"


async def test_a_drained_job_may_go_back_to_the_same_worker(stores: Stores) -> None:
    first = await stores.worker()
    await stores.submit()
    key = await stores.claimed(first)
    await stores.worker()
    await stores.attempts.fail(key, StateReason.PREEMPTED, "", dice=0)
    assert (await stores.claimed(first)).job_id == key.job_id


async def test_workers_that_are_gone_keep_no_job_waiting(stores: Stores) -> None:
    first, gone = await stores.worker(), await stores.worker()
    await stores.submit()
    key = await stores.claimed(first)
    await stores.pool.execute("UPDATE workers SET heartbeat_time = now() - interval '1 h' WHERE id = $1", gone)
    await stores.attempts.fail(key, StateReason.STALLED, "", dice=0)
    await stores.make_due(key.job_id)
    assert (await stores.claimed(first)).job_id == key.job_id


@pytest.mark.parametrize("seed", range(4))
async def test_the_claim_chooses_what_the_rule_chooses(stores: Stores, seed: int) -> None:
    dice = random.Random(seed)
    workers = [
        await stores.worker(
            dice.choice(["CPU", "CUDA"]),
            can_train_4bit=dice.random() < 0.7,
            device_count=dice.randint(1, 2),
            memory_bytes=dice.choice([0, 8]),
            recipes=dice.choice([[Recipe.QLORA], list(Recipe)]),
        )
        for _ in range(5)
    ]
    await make_random_queue(stores, dice, workers)
    claims = 0
    for _ in range(50):
        snapshot = await stores.queue.read()
        worker = dice.choice(workers)
        offer = next((offer for offer in snapshot.offers if offer.worker_id == worker), None)
        busy = {job.worker_id for job in snapshot.running}
        others = [o for o in snapshot.offers if o.worker_id not in busy and o.worker_id != worker]
        expected = offer and next_claim(snapshot.jobs, snapshot.owners, offer, others, snapshot.now)
        got = await stores.attempts.claim(worker)
        assert (got and got.id) == (expected and expected.id), f"seed {seed}"
        claims += got is not None
        await stir(stores, dice)
    assert claims > 10


async def make_random_queue(stores: Stores, dice: random.Random, workers: Sequence[WorkerId]) -> None:
    """Fills the queue with jobs of every kind, owners with and without limits, and a draining worker."""
    owners = [UserId(f"usr_{number}") for number in range(6)]
    for _ in range(70):
        needs = Needs(
            dice.choice([DeviceClass.ANY, DeviceClass.ANY, DeviceClass.CUDA]),
            dice.choice([1, 1, 2]),
            dice.choice([0, 0, 8]),
            dice.choice([Recipe.QLORA, Recipe.QLORA, Recipe.REHEARSAL]),
            dice.random() < 0.3,
        )
        fields = {
            name: getattr(needs, name) for name in ("device_class", "device_count", "device_memory_bytes", "recipe")
        }
        await stores.submit(dice.choice(owners), priority=dice.randint(-1, 1), is_4bit=needs.is_4bit, **fields)
    await stores.pool.execute(
        """
        INSERT INTO quotas (user_id, running_jobs, device_hours_per_day, update_time)
        VALUES ('usr_0', 1, NULL, now()), ('usr_1', NULL, 0, now()), ('usr_2', 0, NULL, now()), ('default', 3, 1, now())
        """
    )
    await stores.pool.execute("UPDATE workers SET drain_time = now() WHERE id = $1", workers[-1])


async def stir(stores: Stores, dice: random.Random) -> None:
    """Lets something happen: an attempt ends somehow, a job is paused, a backoff is over."""
    active = await stores.pool.fetch("SELECT id, attempt FROM jobs WHERE state = 'STARTING' ORDER BY id")
    if active and dice.random() < 0.6:
        row = dice.choice(active)
        reason = dice.choice(
            [StateReason.CRASHED, StateReason.DEVICE_UNFIT, StateReason.PREEMPTED, StateReason.BAD_DATA]
        )
        await stores.attempts.fail(AttemptKey(row["id"], row["attempt"]), reason, "", dice=0)
    if dice.random() < 0.7:
        await stores.pool.execute("UPDATE jobs SET not_before = now() WHERE not_before > now()")
    if dice.random() < 0.2:
        paused = await stores.pool.fetchval(
            "SELECT id FROM jobs WHERE state = 'QUEUED' ORDER BY md5(id || $1) LIMIT 1", str(dice.random())
        )
        await stores.pool.execute("UPDATE jobs SET is_paused = NOT is_paused WHERE id = $1", paused)


async def test_device_hours_keep_an_owner_from_the_trainers(stores: Stores) -> None:
    job = await stores.submit(A)
    await stores.pool.execute(
        "INSERT INTO quotas (user_id, device_hours_per_day, update_time) VALUES ($1, 2, now())", A
    )
    await stores.pool.execute(
        """
        INSERT INTO device_usage (job_id, attempt, owner_id, recipe, device_count, start_time, end_time)
        VALUES ('job_gone', 1, $1, 'QLORA', 2, now() - interval '90 m', now() - interval '30 m')
        """,
        A,
    )
    worker = await stores.worker()
    assert await stores.attempts.claim(worker) is None
    assert await stores.pool.fetchval("SELECT device_hours($1)", A) == pytest.approx(2, abs=0.01)
    await stores.pool.execute(
        "UPDATE device_usage SET start_time = start_time - interval '23 h', end_time = end_time - interval '23 h'"
    )
    assert (await stores.claimed(worker)).job_id == job.id


async def test_attempts_are_counted_while_they_run_and_when_their_job_is_gone(stores: Stores) -> None:
    await stores.submit(A, device_count=2)
    key = await stores.claimed(await stores.worker(device_count=2))
    await stores.pool.execute("UPDATE device_usage SET start_time = start_time - interval '1 h'")
    assert await stores.pool.fetchval("SELECT device_hours($1)", A) == pytest.approx(2, abs=0.01)
    await finish(stores, key)
    await stores.jobs.delete(key.job_id, A)
    assert await stores.pool.fetchval("SELECT device_hours($1)", A) == pytest.approx(2, abs=0.01)
    assert await stores.pool.fetchval("SELECT count(*) FROM device_usage WHERE end_time IS NULL") == 0


async def test_no_two_claims_break_the_running_quota(stores: Stores, other_replica: Stores) -> None:
    await stores.pool.execute("INSERT INTO quotas (user_id, running_jobs, update_time) VALUES ('default', 3, now())")
    for _ in range(12):
        await stores.submit(A)
    workers = [await stores.worker() for _ in range(10)]
    replicas = (stores, other_replica)
    await asyncio.gather(*(replicas[number % 2].attempts.claim(worker) for number, worker in enumerate(workers)))
    states = await stores.pool.fetch("SELECT state, count(*) FROM jobs GROUP BY state")
    assert {row["state"]: row["count"] for row in states} == {JobState.STARTING: 3, JobState.QUEUED: 9}


async def test_the_claim_is_cheap_behind_a_million_jobs(stores: Stores) -> None:
    """The plan that a million rows would get, from statistics that a test can afford."""
    await stores.pool.execute(
        """
        INSERT INTO jobs (id, owner_id, name, model_id, dataset_id, parameters, device_class, needs_4bit, state, reason,
            queue_time, not_before, republish_time, create_time, update_time, end_time)
        SELECT 'job_' || n, 'usr_' || n % 100, '', 'm', 'd', '{}', 'ANY', true,
            CASE WHEN n % 5 = 0 THEN 'QUEUED' ELSE 'STOPPED' END, 'UNSPECIFIED',
            now(), now(), now(), now(), now(), CASE WHEN n % 5 > 0 THEN now() END
        FROM generate_series(1, 50000) AS n
        """
    )
    worker = await stores.worker()
    await stores.pool.execute("ANALYZE")
    rows = await stores.pool.fetch(
        f"EXPLAIN (ANALYZE, TIMING OFF) {stores.attempts._sql.choose_next_job}", worker, timedelta(seconds=30), []
    )
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan on jobs" not in plan, plan
    assert plan.count("Sort Key") == 1, f"only the owners are sorted, never jobs: {plan}"
    reached = [line for line in plan.splitlines() if "jobs_queued on jobs job " in line]
    assert reached
    assert all("loops=1)" in line and "rows=1 " in line.split("actual")[1] for line in reached), plan
