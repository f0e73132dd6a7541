"""Outages are delays: promises 3, 5, 8, 21 and 22."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence

from meshkit.jetstream import publish
from meshkit.testing import assert_eventually
from tests.faults.fault_mesh import LEASE_SECONDS, FaultMesh
from tests.faults.mesh_user import Ended, MeshUser, rehearsal

QUICK = rehearsal(3, 20, checkpoint_every_steps=0)
UNDISTURBED = ("QUEUED", "STARTING", "RUNNING", "COMPLETED")
PULL_SECONDS = 30


async def test_the_broker_loses_everything_with_twenty_jobs_in_flight(mesh: FaultMesh, user: MeshUser) -> None:
    jobs = [await user.create(QUICK) for _ in range(20)]
    await mesh.wipe_nats()

    assert_undisturbed(await user.all_ended([job.id for job in jobs]))


async def test_the_broker_is_gone_for_good(mesh: FaultMesh, user: MeshUser) -> None:
    before = [await user.create(QUICK) for _ in range(5)]
    await mesh.nats.kill()
    after = [await user.create(QUICK) for _ in range(5)]

    assert_undisturbed(await user.all_ended([job.id for job in before + after]))


async def test_a_broker_that_dies_five_times_is_listened_to_again(mesh: FaultMesh, user: MeshUser) -> None:
    jobs = []
    for _ in range(5):
        jobs.append(await user.create(QUICK))
        await mesh.nats.kill()
        jobs.append(await user.create(QUICK))
        await mesh.nats.start()
        jetstream = mesh.open_jetstream()
        try:
            await jetstream.wait_connected(PULL_SECONDS)

            async def is_pulled() -> bool:
                consumer = await jetstream.context().consumer_info("JOBS", "trainers-any")  # noqa: B023 - awaited here
                return bool(consumer.num_waiting)

            await assert_eventually(is_pulled, timeout=PULL_SECONDS)
        finally:
            await jetstream.close()

    assert_undisturbed(await user.all_ended([job.id for job in jobs]))


async def test_wake_ups_that_come_three_times_in_any_order_start_a_job_once(
    mesh: FaultMesh, user: MeshUser, dice: random.Random
) -> None:
    jobs = [await user.create(QUICK) for _ in range(10)]
    copies = [(job.id, copy) for job in jobs for copy in range(3)]
    dice.shuffle(copies)
    jetstream = mesh.open_jetstream()
    try:
        await jetstream.wait_connected(5)
        for job_id, copy in copies:
            payload = json.dumps({"job_id": job_id, "generation": 1}).encode()
            await publish(jetstream, "jobs.v1.any", payload, msg_id=f"{job_id} {copy} again")
    finally:
        await jetstream.close()

    assert_undisturbed(await user.all_ended([job.id for job in jobs]))


async def test_the_database_is_killed_and_then_away_for_most_of_a_lease(mesh: FaultMesh, user: MeshUser) -> None:
    running = await user.create(rehearsal(80, 100))
    await assert_eventually(lambda: is_running(user, running.id))
    jobs = [await user.create(QUICK) for _ in range(4)]
    await mesh.postgres.kill()
    await mesh.postgres.start()
    jobs += [await user.create(QUICK) for _ in range(4)]
    await mesh.postgres.stop()
    await asyncio.sleep(0.6 * LEASE_SECONDS)
    await mesh.postgres.start()

    ended = await user.all_ended([job.id for job in jobs])
    kept = await user.ended(running.id)

    assert {each.state for each in ended} == {"COMPLETED"}
    # A claim whose answer was lost is found by its lease; nothing else may have been disturbed.
    assert {reason for each in ended for reason in each.life.requeue_reasons} <= {"LEASE_LOST"}
    assert kept.life.states == UNDISTURBED, "a job that runs is not disturbed"


async def is_running(user: MeshUser, job_id: str) -> bool:
    return await user.state(job_id) == "RUNNING"


def assert_undisturbed(ended: Sequence[Ended]) -> None:
    assert {each.life.states for each in ended} == {UNDISTURBED}
