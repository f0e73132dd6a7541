"""Random queues, and a slow second opinion on who leaves them next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from scheduler_svc.domain.claim_forecast import ASSUMED_DURATION, ForeseenClaim, QueueSnapshot, RunningJob
from scheduler_svc.domain.claim_order import OwnerStanding, QueuedJob, next_claim
from scheduler_svc.domain.ids import JobId, UserId, WorkerId
from scheduler_svc.domain.job import DeviceClass, Needs, Recipe
from scheduler_svc.domain.placement import Ability, Offer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OWNERS = [UserId(f"usr_{letter}") for letter in "abc"]
WORKERS = [WorkerId(f"wrk_{number}") for number in range(4)]
DURATIONS = {Recipe.QLORA: timedelta(minutes=10)}


def moments(earliest: int, latest: int) -> st.SearchStrategy[datetime]:
    return st.integers(earliest, latest).map(lambda seconds: NOW + timedelta(seconds=seconds))


abilities = st.builds(
    Ability,
    device_class=st.sampled_from([DeviceClass.CPU, DeviceClass.CUDA]),
    device_count=st.integers(1, 2),
    memory_bytes=st.sampled_from([0, 8]),
    can_train_4bit=st.booleans(),
    recipes=st.sampled_from([frozenset({Recipe.QLORA}), frozenset(Recipe)]),
)
needs = st.builds(
    Needs,
    device_class=st.sampled_from([DeviceClass.ANY, DeviceClass.CUDA]),
    device_count=st.integers(1, 2),
    device_memory_bytes=st.sampled_from([0, 8]),
    recipe=st.sampled_from(Recipe),
    is_4bit=st.booleans(),
)


@st.composite
def snapshots(draw: st.DrawFn) -> QueueSnapshot:
    """A small queue with everything in it that can make a difference."""
    offers = [Offer(worker, worker, draw(abilities)) for worker in WORKERS[: draw(st.integers(0, 3))]]
    busy = [offer for offer in offers if draw(st.booleans())]
    running = [
        RunningJob(draw(st.sampled_from(OWNERS)), offer.worker_id, draw(st.none() | moments(0, 2000))) for offer in busy
    ]
    owners = {
        owner: OwnerStanding(
            owner,
            draw(moments(-100, -50)),
            sum(job.owner_id == owner for job in running),
            draw(st.none() | moments(-40, 0)),
            draw(st.none() | st.integers(0, 2)),
            draw(st.sampled_from([True, True, False])),
        )
        for owner in OWNERS
    }
    jobs = [
        QueuedJob(
            JobId(f"job_{number}"),
            draw(st.sampled_from(OWNERS)),
            draw(moments(-50, 0)),
            draw(st.just(NOW) | moments(-10, 2000)),
            draw(needs | st.just(Needs())),
            draw(st.integers(-1, 1)),
            draw(st.sampled_from([False, False, True])),
            1,
            draw(st.none() | st.sampled_from(WORKERS)),
            draw(st.frozensets(st.sampled_from(WORKERS), max_size=2) | st.just(frozenset())),
        )
        for number in range(draw(st.integers(0, 8)))
    ]
    hours_back = {
        owner.id: draw(moments(0, 3000))
        for owner in owners.values()
        if not owner.has_device_hours and draw(st.booleans())
    }
    return QueueSnapshot(NOW, jobs, owners, offers, running, {}, hours_back, DURATIONS)


class World:
    """A snapshot some claims later, worked out anew from the beginning each time it is asked."""

    def __init__(self, snapshot: QueueSnapshot, claims: Sequence[ForeseenClaim]) -> None:
        self._snapshot = snapshot
        self._claims = claims
        self._jobs = {job.id: job for job in snapshot.jobs}

    def waiting(self) -> list[QueuedJob]:
        claimed = {claim.job_id for claim in self._claims}
        return [job for job in self._snapshot.jobs if job.id not in claimed]

    def idle(self, time: datetime) -> list[Offer]:
        busy = {worker for _, worker, end in self._held() if end > time}
        return [offer for offer in self._snapshot.offers if offer.worker_id not in busy]

    def owners(self, time: datetime) -> dict[UserId, OwnerStanding]:
        found = dict(self._snapshot.owners)
        for number, claim in enumerate(self._claims):
            served = self._jobs[claim.job_id].owner_id
            found[served] = replace(found[served], served_time=NOW + timedelta(days=100, seconds=number))
        held = self._held()
        for owner_id, owner in found.items():
            running = sum(holder == owner_id and end > time for holder, _, end in held)
            back = self._snapshot.hours_back.get(owner_id)
            has_hours = owner.has_device_hours or (back is not None and back <= time)
            found[owner_id] = replace(owner, running=running, has_device_hours=has_hours)
        return found

    def next_for(self, offer: Offer, time: datetime) -> QueuedJob | None:
        others = [other for other in self.idle(time) if other is not offer]
        return next_claim(self.waiting(), self.owners(time), offer, others, time)

    def _held(self) -> list[tuple[UserId, WorkerId | None, datetime]]:
        held = [(job.owner_id, job.worker_id, job.end_time or NOW + ASSUMED_DURATION) for job in self._snapshot.running]
        for claim in self._claims:
            job = self._jobs[claim.job_id]
            duration = self._snapshot.durations.get(job.needs.recipe, ASSUMED_DURATION)
            held.append((job.owner_id, claim.worker_id, claim.time + duration))
        return held
