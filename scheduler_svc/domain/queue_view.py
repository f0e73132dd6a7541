"""Where in the queue each job is, when it will probably start, and why it waits: pure, from one snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from scheduler_svc.domain.claim_forecast import QueueSnapshot, foresee_claims
from scheduler_svc.domain.claim_order import OwnerStanding, QueuedJob, Suitors
from scheduler_svc.domain.ids import JobId
from scheduler_svc.domain.job import JobState, Needs, Progress
from scheduler_svc.domain.placement import Offer, describe_misfit

_LEAST_FRACTION = 0.01
"""From so much progress on it says something about the whole."""


class WaitReason(StrEnum):
    """Why a job waits; the names are those of the contract without the prefix `WAIT_REASON_`."""

    ABOUT_TO_START = "ABOUT_TO_START"
    TRAINERS_BUSY = "TRAINERS_BUSY"
    NO_TRAINER = "NO_TRAINER"
    NO_FITTING_TRAINER = "NO_FITTING_TRAINER"
    RUNNING_QUOTA = "RUNNING_QUOTA"
    DEVICE_HOURS_QUOTA = "DEVICE_HOURS_QUOTA"
    BACKOFF = "BACKOFF"
    PAUSED = "PAUSED"


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Where a job is in the queue and why it waits."""

    position: int
    """Place in the order in which jobs will be claimed, from 1; 0 while it cannot be claimed at all."""
    reason: WaitReason
    message: str
    estimated_start_time: datetime | None = None
    """None when that cannot be known."""
    sequence: int = 0
    """Of the job's newest event when this was so."""

    def tells_nothing_new_after(self, earlier: QueueStatus, now: datetime) -> bool:
        """True when a watcher who was told `earlier` need not hear of it: an estimate that moves a little is none."""
        if (self.position, self.reason, self.sequence) != (earlier.position, earlier.reason, earlier.sequence):
            return False
        if self.estimated_start_time is None or earlier.estimated_start_time is None:
            return self.estimated_start_time is earlier.estimated_start_time
        moved = abs(self.estimated_start_time - earlier.estimated_start_time)
        return moved <= max(timedelta(seconds=10), abs(self.estimated_start_time - now) / 10)


@dataclass(frozen=True, slots=True)
class AttemptProgress:
    """How far a job is that a trainer has."""

    state: JobState
    attempt_time: datetime
    """When the trainer claimed it."""
    start_time: datetime | None
    """When the first step of the job was made."""
    progress: Progress
    stop_deadline: datetime | None = None


def view_queue(snapshot: QueueSnapshot) -> Mapping[JobId, QueueStatus]:
    """Returns the place of every job in the queue, and why it waits."""
    claims = foresee_claims(snapshot)
    places = {claim.job_id: (position, claim) for position, claim in enumerate(claims, 1)}
    at_once = Counter(
        job.owner_id for job in snapshot.jobs if job.id in places and places[job.id][1].time <= snapshot.now
    )
    suitors, misfits = Suitors(snapshot.offers), _Misfits(snapshot.offers)
    viewed: dict[JobId, QueueStatus] = {}
    for job in snapshot.jobs:
        position, claim = places.get(job.id, (0, None))
        owner = snapshot.owners[job.owner_id]
        facts = _Facts(
            suitors.count(job), position, claim is not None and claim.time <= snapshot.now, at_once[owner.id]
        )
        reason, message = _explain(job, owner, snapshot, facts, misfits)
        estimate = claim.time if claim is not None and claim.is_known else None
        if job.is_paused:
            reason, message = WaitReason.PAUSED, "paused by its owner; resume it to let it run"
        viewed[job.id] = QueueStatus(position, reason, message, estimate, job.sequence)
    return viewed


def estimate_end(running: AttemptProgress, typical: timedelta | None, now: datetime) -> datetime | None:
    """Returns when a trainer will probably be free of the job; None when nobody can say.

    By the job's own progress where there is some, else by how long such attempts typically take.
    """
    if running.state is JobState.STOPPING:
        return running.stop_deadline
    fraction = running.progress.fraction
    if running.start_time is not None and fraction >= _LEAST_FRACTION:
        spent = max(now - running.start_time, timedelta(0))
        return now + spent * (max(1 - fraction, 0.0) / fraction)
    return None if typical is None else max(running.attempt_time + typical, now)


@dataclass(frozen=True, slots=True)
class _Facts:
    suitors: int
    """Trainers that can hold the job."""
    position: int
    starts_now: bool
    owner_starts: int
    """How many of its owner's jobs start now."""


class _Misfits:
    """What the trainers lack; said once for all jobs that need the same."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self._offers = offers
        self._told: dict[Needs, str] = {}

    def describe(self, needs: Needs) -> str:
        if needs not in self._told:
            self._told[needs] = describe_misfit(needs, self._offers)
        return self._told[needs]


def _explain(
    job: QueuedJob, owner: OwnerStanding, snapshot: QueueSnapshot, facts: _Facts, misfits: _Misfits
) -> tuple[WaitReason, str]:
    """Returns the first thing that keeps the job from a trainer, and that in words."""
    if not snapshot.offers:
        return WaitReason.NO_TRAINER, _no_trainer(snapshot.draining)
    if not facts.suitors:
        return WaitReason.NO_FITTING_TRAINER, misfits.describe(job.needs)
    if job.not_before > snapshot.now:
        return WaitReason.BACKOFF, f"its last attempt failed; it is tried again at {_clock(job.not_before)}"
    if not owner.has_device_hours:
        back = snapshot.hours_back.get(owner.id)
        when = "ask an admin for more" if back is None else f"there are some again at {_clock(back)} at the earliest"
        return WaitReason.DEVICE_HOURS_QUOTA, f"its owner's device hours of the last 24 hours are used up; {when}"
    if facts.starts_now:
        return WaitReason.ABOUT_TO_START, "a fitting trainer is free: it starts in a moment"
    if owner.running_limit is not None and owner.running + facts.owner_starts >= owner.running_limit:
        limit = f"{owner.running_limit} running {'job' if owner.running_limit == 1 else 'jobs'}"
        return WaitReason.RUNNING_QUOTA, f"its owner's quota is {limit}; it starts when one of them has ended"
    return WaitReason.TRAINERS_BUSY, _busy(facts)


def _no_trainer(draining: int) -> str:
    if draining:
        return "every trainer that is there has been told to take no more jobs; it starts once one may again"
    return "no trainer is there; it starts once one joins"


def _busy(facts: _Facts) -> str:
    trainers = "the trainer that can hold it is"
    if facts.suitors > 1:
        trainers = f"the {facts.suitors} trainers that can hold it are"
    ahead = facts.position - 1
    before = "it is next" if ahead < 1 else f"{ahead} {'job goes' if ahead == 1 else 'jobs go'} before it"
    return f"{trainers} busy; {before}"


def _clock(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
