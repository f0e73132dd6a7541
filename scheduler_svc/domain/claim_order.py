"""Who gets the next job: the rule that the claim's SQL follows, written down without a database.

Of the owners whose quotas let them, the one with the fewest running jobs is served, of equals the one who was served
longest ago; of that owner's jobs the one of the highest priority, of equals the oldest. So nobody's fifty jobs keep
another one's only job waiting for longer than one claim.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from scheduler_svc.domain.ids import JobId, UserId, WorkerId
from scheduler_svc.domain.job import Needs
from scheduler_svc.domain.placement import Offer, fits

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that waits, and what matters for its place."""

    id: JobId
    owner_id: UserId
    create_time: datetime
    not_before: datetime
    """End of its backoff."""
    needs: Needs = field(default_factory=Needs)
    priority: int = 0
    is_paused: bool = False
    sequence: int = 1
    """Of its newest event: what is said of the job holds while it has this one."""
    failed_on: WorkerId | None = None
    """The trainer on which its last attempt failed."""
    unfit_on: frozenset[WorkerId] = frozenset()
    """Trainers that reported DEVICE_UNFIT for it."""

    @property
    def is_special(self) -> bool:
        """Its past keeps it from certain trainers."""
        return self.failed_on is not None or bool(self.unfit_on)


@dataclass(frozen=True, slots=True)
class OwnerStanding:
    """How an owner stands when the next job is given out."""

    id: UserId
    create_time: datetime
    """When their first job came."""
    running: int = 0
    """Jobs that trainers have."""
    served_time: datetime | None = None
    """When they last got a trainer."""
    running_limit: int | None = None
    has_device_hours: bool = True
    """Their device hours of the last 24 hours are not used up."""

    @property
    def may_run_more(self) -> bool:
        return self.running_limit is None or self.running < self.running_limit


OwnerRank = tuple[int, datetime, datetime, UserId]
JobRank = tuple[int, datetime, JobId]


def owner_rank(owner: OwnerStanding) -> OwnerRank:
    """Returns a key by which owners are served: the smallest first."""
    return owner.running, owner.served_time or _NEVER, owner.create_time, owner.id


def job_rank(job: QueuedJob) -> JobRank:
    """Returns a key by which one owner's jobs are taken: the smallest first."""
    return -job.priority, job.create_time, job.id


def is_suitable(job: QueuedJob, offer: Offer) -> bool:
    """Tells whether the trainer can hold the job, as far as anybody knows."""
    return offer.worker_id not in job.unfit_on and fits(job.needs, offer.ability)


class Suitors:
    """Counts the trainers that can hold a job; fast, for most jobs need the same."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self._offers = offers
        self._counts: dict[Needs, int] = {}

    def count(self, job: QueuedJob) -> int:
        """Returns how many trainers can hold the job."""
        if job.unfit_on:
            return sum(is_suitable(job, offer) for offer in self._offers)
        if job.needs not in self._counts:
            self._counts[job.needs] = sum(fits(job.needs, offer.ability) for offer in self._offers)
        return self._counts[job.needs]


def may_take(job: QueuedJob, offer: Offer, idle_others: Iterable[Offer]) -> bool:
    """Tells whether the trainer may take the job: where its last attempt failed only if no other idle one can."""
    if not is_suitable(job, offer):
        return False
    return job.failed_on != offer.worker_id or not any(is_suitable(job, other) for other in idle_others)


def next_claim(
    jobs: Iterable[QueuedJob],
    owners: Mapping[UserId, OwnerStanding],
    offer: Offer,
    idle_others: Collection[Offer],
    now: datetime,
) -> QueuedJob | None:
    """Returns the job that the trainer gets; None when there is none for it."""
    candidates = [
        job
        for job in jobs
        if not job.is_paused
        and job.not_before <= now
        and owners[job.owner_id].may_run_more
        and owners[job.owner_id].has_device_hours
        and may_take(job, offer, idle_others)
    ]
    return min(candidates, key=lambda job: (owner_rank(owners[job.owner_id]), job_rank(job)), default=None)
