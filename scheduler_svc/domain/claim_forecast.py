"""Which job will be claimed when, as far as can be known: the claims of the coming time, one after the other.

A discrete-event simulation of the rule in `claim_order`: trainers become free, backoffs end, device hours come back,
and each time every idle trainer takes what the rule gives it. Where a duration is not known, one is assumed to keep the
order going, and what depends on it says so.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from scheduler_svc.domain.claim_order import (
    JobRank,
    OwnerRank,
    OwnerStanding,
    QueuedJob,
    Suitors,
    job_rank,
    may_take,
    owner_rank,
)
from scheduler_svc.domain.ids import JobId, UserId, WorkerId
from scheduler_svc.domain.job import Needs, Recipe
from scheduler_svc.domain.placement import Ability, Offer, fits
from scheduler_svc.domain.quota import WINDOW

ASSUMED_DURATION = timedelta(hours=1)
"""Stands for a duration that nobody knows; no estimate is built on it."""


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a trainer has."""

    owner_id: UserId
    worker_id: WorkerId | None
    end_time: datetime | None
    """When the trainer will probably be free again; None when nobody can say."""


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The queue and all that decides who leaves it, at one moment."""

    now: datetime
    jobs: Sequence[QueuedJob] = ()
    owners: Mapping[UserId, OwnerStanding] = field(default_factory=dict)
    """At least the owners of the jobs, waiting and running."""
    offers: Sequence[Offer] = ()
    """Trainers that are there and take jobs, busy or not."""
    running: Sequence[RunningJob] = ()
    hours_left: Mapping[UserId, timedelta] = field(default_factory=dict)
    """Device time that owners with a limit may still use."""
    hours_back: Mapping[UserId, datetime] = field(default_factory=dict)
    """When owners whose device hours are used up can have a trainer again; who is missing never can."""
    durations: Mapping[Recipe, timedelta] = field(default_factory=dict)
    """How long recent attempts took, by recipe; what is missing is not known."""
    draining: int = 0
    """Trainers that are there and take no more jobs."""


@dataclass(frozen=True, slots=True)
class ForeseenClaim:
    """A claim that will probably happen."""

    job_id: JobId
    worker_id: WorkerId
    time: datetime
    is_known: bool
    """False where the time hangs on a duration that was only assumed."""


def foresee_claims(snapshot: QueueSnapshot) -> list[ForeseenClaim]:
    """Returns the claims in the order in which they will happen; a job that nobody could ever take has none."""
    return list(_Forecast(snapshot).run())


@dataclass(slots=True)
class _Trainer:
    offer: Offer
    is_known: bool = True
    """When it became free is known."""


@dataclass(slots=True)
class _Owner:
    """An owner's standing as it develops, and their jobs that are due."""

    standing: OwnerStanding
    is_known: bool = True
    version: int = 0
    ordinary: dict[Needs, list[tuple[JobRank, QueuedJob]]] = field(default_factory=lambda: defaultdict(list))
    """Heaps of jobs that any trainer of the right ability may take."""
    special: list[QueuedJob] = field(default_factory=list)
    """Jobs with a past: certain trainers may not take them."""

    @property
    def is_open(self) -> bool:
        return self.standing.may_run_more and self.standing.has_device_hours

    def add(self, job: QueuedJob) -> None:
        if not job.is_special:
            heapq.heappush(self.ordinary[job.needs], (job_rank(job), job))
        else:
            self.special.append(job)

    def best(self, trainer: _Trainer, idle: Iterable[_Trainer]) -> QueuedJob | None:
        """Returns the job that the trainer may take first."""
        ability = trainer.offer.ability
        found = [heap[0] for needs, heap in self.ordinary.items() if heap and fits(needs, ability)]
        if self.special:
            others = [other.offer for other in idle if other is not trainer]
            found += [(job_rank(job), job) for job in self.special if may_take(job, trainer.offer, others)]
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def remove(self, job: QueuedJob) -> None:
        if job.is_special:
            self.special.remove(job)
        else:
            heapq.heappop(self.ordinary[job.needs])


@dataclass(frozen=True, slots=True)
class _Event:
    """Something that may let a trainer take a job."""

    time: datetime
    is_known: bool = True
    due: QueuedJob | None = None
    ended: UserId | None = None
    used: timedelta = timedelta(0)
    """Device time of the job that ended."""
    freed: _Trainer | None = None
    hours_back: UserId | None = None


class _Forecast:
    def __init__(self, snapshot: QueueSnapshot) -> None:
        self._snapshot = snapshot
        self._owners = {owner.id: _Owner(owner) for owner in snapshot.owners.values()}
        self._idle: dict[WorkerId, _Trainer] = {}
        self._queues: dict[Ability, list[tuple[OwnerRank, int, _Owner]]] = {
            offer.ability: [] for offer in snapshot.offers
        }
        self._events: list[tuple[datetime, int, _Event]] = []
        self._hours_left = dict(snapshot.hours_left)
        self._count = 0
        self._left = 0
        self._special = 0

    def run(self) -> Iterator[ForeseenClaim]:
        """Yields the claims, one after the other."""
        self._place_trainers()
        self._place_jobs()
        for owner_id, time in self._snapshot.hours_back.items():
            self._await(_Event(time, hours_back=owner_id))
        now = self._snapshot.now
        while True:
            # All that happens at one moment happens before anybody claims at it.
            while self._events and self._events[0][0] <= now:
                self._apply(heapq.heappop(self._events)[2])
            yield from self._match(now)
            if not self._events or not self._left:
                return
            now = self._events[0][0]

    def _place_trainers(self) -> None:
        trainers = {offer.worker_id: _Trainer(offer) for offer in self._snapshot.offers}
        busy = {job.worker_id for job in self._snapshot.running}
        self._idle = {worker_id: trainer for worker_id, trainer in trainers.items() if worker_id not in busy}
        for job in self._snapshot.running:
            end = job.end_time or self._snapshot.now + ASSUMED_DURATION
            trainer = trainers.get(job.worker_id) if job.worker_id else None
            end = max(end, self._snapshot.now)
            self._await(_Event(end, is_known=job.end_time is not None, ended=job.owner_id, freed=trainer))

    def _place_jobs(self) -> None:
        suitors = Suitors(self._snapshot.offers)
        for job in self._snapshot.jobs:
            if job.is_paused or not suitors.count(job):
                continue
            self._left += 1
            self._special += job.is_special
            if job.not_before > self._snapshot.now:
                self._await(_Event(job.not_before, due=job))
            else:
                self._owners[job.owner_id].add(job)
        for owner in self._owners.values():
            self._line_up(owner)

    def _await(self, event: _Event) -> None:
        self._count += 1
        heapq.heappush(self._events, (event.time, self._count, event))

    def _line_up(self, owner: _Owner) -> None:
        """Puts the owner where they stand now into every queue; the entries that they have there are void."""
        owner.version += 1
        if not owner.is_open:
            return
        for ability, queue in self._queues.items():
            if owner.special or any(heap and fits(needs, ability) for needs, heap in owner.ordinary.items()):
                heapq.heappush(queue, (owner_rank(owner.standing), owner.version, owner))

    def _apply(self, event: _Event) -> None:
        if event.due is not None:
            owner = self._owners[event.due.owner_id]
            owner.add(event.due)
            self._line_up(owner)
        if event.freed is not None:
            event.freed.is_known = event.is_known
            self._idle[event.freed.offer.worker_id] = event.freed
        if event.ended is not None and event.ended in self._owners:
            self._end(self._owners[event.ended], event)
        if event.hours_back is not None and event.hours_back in self._owners:
            owner = self._owners[event.hours_back]
            owner.standing = replace(owner.standing, has_device_hours=True)
            self._line_up(owner)

    def _end(self, owner: _Owner, event: _Event) -> None:
        owner.standing = replace(owner.standing, running=max(owner.standing.running - 1, 0))
        owner.is_known = owner.is_known and (event.is_known or owner.standing.running_limit is None)
        owner_id = owner.standing.id
        if event.used and owner_id in self._hours_left:
            self._hours_left[owner_id] -= event.used
            if self._hours_left[owner_id] <= timedelta(0) and owner.standing.has_device_hours:
                # They come back bit by bit; a day later all of these are.
                owner.standing, owner.is_known = replace(owner.standing, has_device_hours=False), False
                self._hours_left[owner_id] = WINDOW
                self._await(_Event(event.time + WINDOW, hours_back=owner_id))
        self._line_up(owner)

    def _match(self, now: datetime) -> Iterator[ForeseenClaim]:
        """Lets every idle trainer take what the rule gives it, until none finds anything."""
        is_over = False
        while not is_over:
            is_over = True
            dry: set[Ability] = set()
            for worker_id in sorted(self._idle):
                trainer = self._idle[worker_id]
                if trainer.offer.ability in dry:
                    continue
                found = self._choose(trainer)
                if found is not None:
                    yield self._claim(trainer, *found, now)
                    # Another trainer may now be the last one that a job's last attempt leaves to it.
                    is_over = not self._special
                elif not self._special:
                    dry.add(trainer.offer.ability)

    def _choose(self, trainer: _Trainer) -> tuple[_Owner, QueuedJob] | None:
        queue = self._queues[trainer.offer.ability]
        passed_over = []
        found = None
        while queue and found is None:
            entry = heapq.heappop(queue)
            _, version, owner = entry
            if version != owner.version:
                continue
            job = owner.best(trainer, self._idle.values())
            if job is None:
                if owner.special:
                    passed_over.append(entry)
                continue
            found = owner, job
        for entry in passed_over:
            heapq.heappush(queue, entry)
        return found

    def _claim(self, trainer: _Trainer, owner: _Owner, job: QueuedJob, now: datetime) -> ForeseenClaim:
        del self._idle[trainer.offer.worker_id]
        self._left -= 1
        self._special -= job.is_special
        owner.remove(job)
        # Two claims of one moment are one after the other all the same.
        self._count += 1
        served = now + timedelta(microseconds=self._count)
        owner.standing = replace(owner.standing, running=owner.standing.running + 1, served_time=served)
        self._line_up(owner)
        is_known = trainer.is_known and owner.is_known
        duration = self._snapshot.durations.get(job.needs.recipe)
        end = now + (ASSUMED_DURATION if duration is None else duration)
        self._await(
            _Event(
                end,
                is_known=is_known and duration is not None,
                ended=owner.standing.id,
                used=(end - now) * job.needs.device_count,
                freed=trainer,
            ),
        )
        return ForeseenClaim(job.id, trainer.offer.worker_id, now, is_known)
