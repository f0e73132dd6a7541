"""Places in the queue, estimates, and reasons to wait."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings

from scheduler_svc.domain.claim_forecast import QueueSnapshot, RunningJob, foresee_claims
from scheduler_svc.domain.claim_order import OwnerStanding, QueuedJob, Suitors
from scheduler_svc.domain.ids import JobId, UserId, WorkerId
from scheduler_svc.domain.job import DeviceClass, JobState, Needs, Progress, Recipe
from scheduler_svc.domain.placement import Ability, Offer
from scheduler_svc.domain.queue_view import (
    AttemptProgress,
    QueueStatus,
    WaitReason,
    estimate_end,
    view_queue,
)
from tests.unit.scheduler.queue_worlds import DURATIONS, NOW, World, snapshots

A, B = UserId("usr_a"), UserId("usr_b")
CPU = Offer(WorkerId("wrk_1"), "desk", Ability(DeviceClass.CPU))
GPU = Offer(WorkerId("wrk_2"), "rack", Ability(DeviceClass.CUDA, 1, 16 * 10**9, can_train_4bit=True))
MINUTE = timedelta(minutes=1)


def job(number: int, owner: UserId = A, **fields: object) -> QueuedJob:
    created = NOW - timedelta(hours=1) + timedelta(seconds=number)
    values = {"id": JobId(f"job_{number}"), "owner_id": owner, "create_time": created, "not_before": created, **fields}
    return QueuedJob(**values)  # type: ignore[arg-type]  # whatever a test wants to say


def queue(*jobs: QueuedJob, owners: tuple[OwnerStanding, ...] = (), **fields: object) -> QueueSnapshot:
    known = {owner: OwnerStanding(owner, NOW - timedelta(days=1)) for owner in (A, B)}
    known.update({owner.id: owner for owner in owners})
    values = {"now": NOW, "jobs": jobs, "owners": known, "offers": (CPU,), "durations": DURATIONS, **fields}
    return QueueSnapshot(**values)  # type: ignore[arg-type]  # whatever a test wants to say


def busy_until(end: datetime | None, owner: UserId = B, worker: Offer = CPU) -> RunningJob:
    return RunningJob(owner, worker.worker_id, end)


@settings(max_examples=150, deadline=None)
@given(snapshots())
def test_the_forecast_is_one_claim_after_the_other(snapshot: QueueSnapshot) -> None:
    claims = foresee_claims(snapshot)
    assert len({claim.job_id for claim in claims}) == len(claims)
    for number, claim in enumerate(claims):
        assert claim.time >= max(NOW, *(earlier.time for earlier in claims[:number]), NOW)
        world = World(snapshot, claims[:number])
        (offer,) = [offer for offer in world.idle(claim.time) if offer.worker_id == claim.worker_id]
        taken = world.next_for(offer, claim.time)
        assert taken is not None
        assert taken.id == claim.job_id


@settings(max_examples=150, deadline=None)
@given(snapshots())
def test_no_trainer_idles_while_there_is_a_job_for_it(snapshot: QueueSnapshot) -> None:
    claims = foresee_claims(snapshot)
    for time in {NOW, *(claim.time for claim in claims)}:
        world = World(snapshot, [claim for claim in claims if claim.time <= time])
        assert all(world.next_for(offer, time) is None for offer in world.idle(time))


@settings(max_examples=150, deadline=None)
@given(snapshots())
def test_positions_are_a_permutation_and_who_has_none_can_never_start(snapshot: QueueSnapshot) -> None:
    viewed = view_queue(snapshot)
    assert set(viewed) == {job.id for job in snapshot.jobs}
    places = sorted(status.position for status in viewed.values() if status.position)
    assert places == list(range(1, len(places) + 1))
    suitors = Suitors(snapshot.offers)
    for waiting in snapshot.jobs:
        status = viewed[waiting.id]
        assert status.message
        owner = snapshot.owners[waiting.owner_id]
        barred = owner.running_limit == 0 or not (owner.has_device_hours or owner.id in snapshot.hours_back)
        assert (status.position == 0) == (waiting.is_paused or not suitors.count(waiting) or barred)
        if status.reason is WaitReason.ABOUT_TO_START:
            assert status.estimated_start_time == NOW
        if status.position == 0:
            assert status.estimated_start_time is None


def test_fifty_jobs_of_one_leave_room_for_the_only_one_of_another() -> None:
    busy = OwnerStanding(A, NOW - timedelta(days=2), served_time=NOW)
    viewed = view_queue(queue(*(job(number) for number in range(50)), job(99, B), owners=(busy,)))
    assert viewed[JobId("job_99")].position == 1


def test_priority_counts_among_ones_own_jobs_only() -> None:
    viewed = view_queue(queue(job(1), job(2, priority=100), job(3, B)))
    assert [viewed[JobId(f"job_{number}")].position for number in (1, 2, 3)] == [3, 1, 2]


def test_starts_are_estimated_from_progress_and_recent_durations() -> None:
    viewed = view_queue(queue(job(1), job(2), running=(busy_until(NOW + 3 * MINUTE),)))
    first, second = viewed[JobId("job_1")], viewed[JobId("job_2")]
    assert (first.position, first.estimated_start_time) == (1, NOW + 3 * MINUTE)
    assert (second.position, second.estimated_start_time) == (2, NOW + 13 * MINUTE)
    assert first.reason is WaitReason.TRAINERS_BUSY
    assert first.message == "the trainer that can hold it is busy; it is next"
    assert second.message == "the trainer that can hold it is busy; 1 job goes before it"


def test_what_cannot_be_known_is_not_told() -> None:
    viewed = view_queue(queue(job(1), running=(busy_until(None),)))
    assert viewed[JobId("job_1")].estimated_start_time is None
    viewed = view_queue(queue(job(1), job(2), durations={}))
    assert viewed[JobId("job_1")].reason is WaitReason.ABOUT_TO_START
    assert viewed[JobId("job_2")].estimated_start_time is None


@pytest.mark.parametrize(
    ("snapshot", "reason", "words"),
    [
        (queue(job(1, is_paused=True)), WaitReason.PAUSED, ["paused", "resume"]),
        (queue(job(1, not_before=NOW + MINUTE)), WaitReason.BACKOFF, ["2026-03-01 12:01:00 UTC"]),
        (queue(job(1), offers=()), WaitReason.NO_TRAINER, ["no trainer is there"]),
        (queue(job(1), offers=(), draining=2), WaitReason.NO_TRAINER, ["told to take no more jobs"]),
        (
            queue(job(1, needs=Needs(DeviceClass.CUDA, 2, 24 * 10**9, is_4bit=True)), offers=(CPU, GPU)),
            WaitReason.NO_FITTING_TRAINER,
            ["2 CUDA devices of at least 24.0 GB with 4-bit training", "trainer rack, has 1 CUDA device of 16.0 GB"],
        ),
        (
            queue(job(1, needs=Needs(recipe=Recipe.REHEARSAL))),
            WaitReason.NO_FITTING_TRAINER,
            ["a trainer started for rehearsals", "was not started for rehearsals"],
        ),
        (queue(job(1, unfit_on=frozenset({CPU.worker_id}))), WaitReason.NO_FITTING_TRAINER, ["DEVICE_UNFIT"]),
        (
            queue(job(1), owners=(OwnerStanding(A, NOW, running=2, running_limit=2),)),
            WaitReason.RUNNING_QUOTA,
            ["2 running jobs"],
        ),
        (
            queue(
                job(1),
                owners=(OwnerStanding(A, NOW, has_device_hours=False),),
                hours_back={A: NOW + 90 * MINUTE},
            ),
            WaitReason.DEVICE_HOURS_QUOTA,
            ["2026-03-01 13:30:00 UTC at the earliest"],
        ),
        (queue(job(1), running=(busy_until(NOW),)), WaitReason.ABOUT_TO_START, ["in a moment"]),
        (queue(job(1), running=(busy_until(NOW + MINUTE),)), WaitReason.TRAINERS_BUSY, ["it is next"]),
    ],
)
def test_each_reason_says_what_is_missing(snapshot: QueueSnapshot, reason: WaitReason, words: list[str]) -> None:
    status = view_queue(snapshot)[JobId("job_1")]
    assert status.reason is reason
    for word in words:
        assert word in status.message


def test_jobs_beyond_the_running_quota_wait_for_it_though_a_trainer_is_idle() -> None:
    owner = OwnerStanding(A, NOW, running_limit=1)
    viewed = view_queue(queue(job(1), job(2), owners=(owner,), offers=(CPU, GPU)))
    assert viewed[JobId("job_1")].reason is WaitReason.ABOUT_TO_START
    assert viewed[JobId("job_2")].reason is WaitReason.RUNNING_QUOTA
    assert viewed[JobId("job_2")].estimated_start_time == NOW + DURATIONS[Recipe.QLORA]


def test_device_hours_that_run_out_end_what_can_be_known() -> None:
    snapshot = queue(*(job(number) for number in range(4)), hours_left={A: 15 * MINUTE})
    starts = [view_queue(snapshot)[JobId(f"job_{number}")].estimated_start_time for number in range(4)]
    assert starts == [NOW, NOW + 10 * MINUTE, None, None]


def test_a_trainer_that_failed_a_job_is_passed_over_while_another_idles() -> None:
    failed = job(1, failed_on=CPU.worker_id)
    (claim,) = foresee_claims(queue(failed, offers=(CPU, GPU)))
    assert claim.worker_id == GPU.worker_id
    (claim,) = foresee_claims(queue(failed, offers=(CPU, GPU), running=(busy_until(NOW + MINUTE, worker=GPU),)))
    assert (claim.worker_id, claim.time) == (CPU.worker_id, NOW)


def test_the_end_of_a_running_job_is_estimated() -> None:
    half = AttemptProgress(JobState.RUNNING, NOW - 3 * MINUTE, NOW - 2 * MINUTE, Progress(fraction=0.5))
    assert estimate_end(half, None, NOW) == NOW + 2 * MINUTE
    starting = replace(half, state=JobState.STARTING, start_time=None, progress=Progress())
    assert estimate_end(starting, 10 * MINUTE, NOW) == NOW + 7 * MINUTE
    assert estimate_end(starting, MINUTE, NOW) == NOW
    assert estimate_end(starting, None, NOW) is None
    stopping = replace(half, state=JobState.STOPPING, stop_deadline=NOW + timedelta(seconds=9))
    assert estimate_end(stopping, None, NOW) == NOW + timedelta(seconds=9)


def test_a_watcher_hears_of_changes_that_matter() -> None:
    told = QueueStatus(2, WaitReason.TRAINERS_BUSY, "", NOW + 10 * MINUTE)
    assert replace(told, estimated_start_time=NOW + 10 * MINUTE + timedelta(seconds=9)).tells_nothing_new_after(
        told, NOW
    )
    assert not replace(told, estimated_start_time=NOW + 15 * MINUTE).tells_nothing_new_after(told, NOW)
    assert not replace(told, estimated_start_time=None).tells_nothing_new_after(told, NOW)
    assert not replace(told, sequence=2).tells_nothing_new_after(told, NOW)
    assert not replace(told, position=1).tells_nothing_new_after(told, NOW)
    assert not replace(told, reason=WaitReason.RUNNING_QUOTA).tells_nothing_new_after(told, NOW)
