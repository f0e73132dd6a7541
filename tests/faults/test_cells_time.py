"""Clocks that are wrong and trainers that are gone: promises 9 and 10."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from meshkit.testing import assert_eventually
from tests.faults.clock_skew import clock_skew_works
from tests.faults.fault_mesh import LEASE_SECONDS, SWEEP_SECONDS, FaultMesh, Trainer
from tests.faults.lifecycle_model import FINAL
from tests.faults.mesh_user import MeshUser, rehearsal

SKEW_SECONDS = 600
BUSY_SECONDS = 10.0
"""What a busy machine may add to any wait."""
UNDISTURBED = ("QUEUED", "STARTING", "RUNNING", "COMPLETED")


@pytest.mark.parametrize("ahead", [SKEW_SECONDS, -SKEW_SECONDS])
async def test_trainers_and_a_scheduler_at_another_time_change_nothing(
    mesh: FaultMesh, user: MeshUser, ahead: int
) -> None:
    if not clock_skew_works():
        pytest.skip("NOT TESTED: no libfaketime works here: pip install libfaketime, or apt-get install faketime")
    await asyncio.gather(
        mesh.schedulers[0].restart(skew_seconds=ahead),
        *(trainer.restart(skew_seconds=way) for trainer, way in zip(mesh.trainers, (ahead, -ahead), strict=True)),
    )
    longer_than_a_lease = rehearsal(int(10 * (LEASE_SECONDS + 2)), 100)

    # Users come in at the other replica: to the one that is ahead, tokens of ten minutes are spent.
    async with user.at(mesh.schedulers[1]) as directly:
        jobs = [(await directly.create(user.request(longer_than_a_lease))).id for _ in mesh.trainers]

        async def are_over() -> bool:
            return {await directly.state(job_id) for job_id in jobs} <= FINAL

        await assert_eventually(are_over)
    await mesh.heal()
    ended = await user.all_ended(jobs)

    assert {each.life.states for each in ended} == {UNDISTURBED}, "nobody's lease was stolen"
    times = [event.create_time.seconds for each in ended for event in each.events]
    assert max(times) - min(times) < 120, "the histories are of one clock"
    assert abs(max(times) - time.time()) < 60


async def test_no_lease_lives_for_ever_by_a_wrong_clock(mesh: FaultMesh, user: MeshUser) -> None:
    if not clock_skew_works():
        pytest.skip("NOT TESTED: no libfaketime works here: pip install libfaketime, or apt-get install faketime")
    await mesh.trainers[0].restart(skew_seconds=SKEW_SECONDS)
    await mesh.trainers[1].take_down()
    job = await user.create(rehearsal(300, 100))
    await assert_eventually(lambda: is_at_work(user, job.id))

    await mesh.trainers[0].take_down()
    seconds = await seconds_until_lost(user, job.id)

    assert seconds < LEASE_SECONDS + SWEEP_SECONDS + BUSY_SECONDS
    await mesh.trainers[1].start()
    await user.stop(job.id)


def killed(trainer: Trainer) -> None:
    trainer.is_wanted = False
    trainer.signal(signal.SIGKILL)


def frozen(trainer: Trainer) -> None:
    trainer.freeze()


def cut_off(trainer: Trainer) -> None:
    trainer.link.partition()


@pytest.mark.parametrize("end", [killed, frozen, cut_off])
async def test_a_trainer_that_is_gone_is_found_out(
    mesh: FaultMesh, user: MeshUser, dice: random.Random, end: Callable[[Trainer], None]
) -> None:
    """Twice each with leases of seconds; `benchmarks/dead_trainer.py` measures twenty with those of earnest."""
    jobs = [await user.create(rehearsal(300, 100)) for _ in mesh.trainers]
    await asyncio.gather(*(assert_eventually(partial(is_at_work, user, job.id), timeout=30) for job in jobs))
    await asyncio.sleep(dice.uniform(0, 1))

    for trainer in mesh.trainers:
        end(trainer)
    found = await asyncio.gather(*(seconds_until_lost(user, job.id) for job in jobs))

    assert max(found) < LEASE_SECONDS + SWEEP_SECONDS + BUSY_SECONDS
    for job in jobs:
        await user.stop(job.id)
        assert (await user.ended(job.id)).life.requeue_reasons[0] == "LEASE_LOST"


async def is_at_work(user: MeshUser, job_id: str) -> bool:
    return (await user.get(job_id)).progress.step > 1


async def seconds_until_lost(user: MeshUser, job_id: str) -> float:
    """How long it takes from now until the job is taken from its trainer."""
    began = time.monotonic()

    async def is_lost() -> bool:
        job = await user.get(job_id)
        return job.attempt > 1 or await user.state(job_id) == "QUEUED"

    await assert_eventually(is_lost, timeout=6 * LEASE_SECONDS)
    return time.monotonic() - began
