"""The scheduler's stores on a database of their own, and short ways to bring a job somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from meshkit.ids import new_id
from meshkit.postgres import Pool
from scheduler_svc.domain.events import JobEvent, Report, Started, StateChange
from scheduler_svc.domain.files import FileSet, StoredFile
from scheduler_svc.domain.ids import AttemptKey, JobId, UserId, WorkerId
from scheduler_svc.domain.job import FINAL_STATES, DeviceClass, Job, JobSubmission, Needs, Recipe
from scheduler_svc.domain.lifecycle import LEGAL_CHANGES
from scheduler_svc.domain.parameters import TrainingParameters
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.domain.worker import Device
from scheduler_svc.store import load_queries
from scheduler_svc.store.attempt_store import AttemptStore
from scheduler_svc.store.event_store import EventStore
from scheduler_svc.store.expiry_store import ExpiryStore
from scheduler_svc.store.garbage_store import GarbageStore
from scheduler_svc.store.job_store import JobStore
from scheduler_svc.store.outbox_store import OutboxStore
from scheduler_svc.store.queue_store import QueueStore
from scheduler_svc.store.quota_store import QuotaStore
from scheduler_svc.store.request_store import RequestStore
from scheduler_svc.store.worker_store import WorkerStore

LEASE = timedelta(seconds=30)
GRACE = timedelta(seconds=30)
OWNER = UserId("usr_owner")
NEEDS = frozenset(field.name for field in fields_of(Needs))
FILE = StoredFile("adapter_model.safetensors", 3, "ab" * 32)


@dataclass
class Stores:
    """Every store over one pool."""

    pool: Pool
    lease: timedelta = LEASE

    def __post_init__(self) -> None:
        queries = load_queries()
        self.queries = queries
        self.jobs = JobStore(self.pool, queries)
        self.requests = RequestStore(self.pool, queries)
        self.attempts = AttemptStore(self.pool, queries, self.lease)
        self.events = EventStore(self.pool, queries)
        self.workers = WorkerStore(self.pool, queries, self.lease)
        self.expiry = ExpiryStore(self.pool, queries)
        self.outbox = OutboxStore(self.pool, queries)
        self.garbage = GarbageStore(self.pool, queries)
        self.quotas = QuotaStore(self.pool, queries)
        self.queue = QueueStore(self.pool, queries, self.lease)

    async def submit(self, owner_id: UserId = OWNER, **fields: Any) -> Job:
        """Submits a job."""
        return await self.jobs.submit(submission(owner_id, **fields), None)

    async def worker(
        self,
        device_class: str = "CPU",
        *,
        can_train_4bit: bool = True,
        recipes: Sequence[Recipe] = (Recipe.QLORA,),
        **device: Any,
    ) -> WorkerId:
        """Registers a worker."""
        worker_id = WorkerId(new_id("wrk"))
        found = Device(DeviceClass(device_class), can_train_4bit=can_train_4bit, **device)
        await self.workers.register(worker_id, "w", found, "1", recipes)
        return worker_id

    async def claimed(self, worker_id: WorkerId | None = None) -> AttemptKey:
        """Claims the next job, which must be there."""
        job = await self.attempts.claim(worker_id or await self.worker())
        assert job is not None
        return AttemptKey(job.id, job.attempt)

    async def running(self) -> AttemptKey:
        """Submits a job, claims it and reports its first step."""
        await self.submit()
        key = await self.claimed()
        await self.attempts.record(key, [Report(1, Started(10))])
        return key

    async def expire(self, job_id: JobId) -> None:
        """Puts the lease's end into the past, as if nobody had been heard of for long."""
        await self.pool.execute("UPDATE jobs SET lease_expire_time = now() - interval '1 s' WHERE id = $1", job_id)

    async def make_due(self, job_id: JobId) -> None:
        """Ends a backoff."""
        await self.pool.execute("UPDATE jobs SET not_before = now() WHERE id = $1", job_id)
        await self.pool.execute("UPDATE outbox SET not_before = now() WHERE job_id = $1", job_id)

    async def sweep(self) -> list[Job]:
        """Ends all leases and graces that are over."""
        found = []
        while (job := await self.expiry.expire_one(dice=0.5)) is not None:
            found.append(job)
        return found

    async def history(self, job_id: JobId) -> list[JobEvent]:
        """Returns all events."""
        return list(await self.events.list_events(job_id, 0, 100_000))


def submission(owner_id: UserId = OWNER, **fields: Any) -> JobSubmission:
    """Returns a checked request."""
    values: dict[str, Any] = {
        "id": JobId(new_id("job")),
        "owner_id": owner_id,
        "name": "",
        "model_id": "mdl_1",
        "dataset_id": "ds_1",
        "parameters": TrainingParameters(),
    }
    needs = {"device_class": DeviceClass.ANY, **{name: fields.pop(name) for name in NEEDS if name in fields}}
    submission = JobSubmission(**{**values, **fields})
    is_4bit = submission.parameters.needs_4bit
    return replace(submission, needs=Needs(**{"is_4bit": is_4bit, **needs}))


def request(
    request_id: UUID | None = None, body: str = "body", *, rpc: str = "CreateTrainingJob", caller_id: UserId = OWNER
) -> RequestKey:
    """Returns what makes a request known."""
    return RequestKey(caller_id, request_id or uuid4(), rpc, body)


def files_of(key: AttemptKey, *, step: int | None = None) -> FileSet:
    """Returns a file set of one file."""
    return FileSet(key, (FILE,), step)


def check_history(events: list[JobEvent]) -> None:
    """Holds a history against the model: no gap, legal changes only, nothing after the end, attempts that grow.

    After the end there is only what a retry begins, and a paused job is nothing but resumed or stopped.
    """
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    state, attempt, is_paused = None, 0, False
    for event in events:
        assert state not in FINAL_STATES or _reason(event) == "RETRY_REQUESTED", f"event {event.sequence} after the end"
        assert not is_paused or _reason(event) in ("RESUMED", "STOP_REQUESTED"), f"event {event.sequence} in a pause"
        if isinstance(event.body, StateChange):
            assert event.body.source == state
            assert (state, event.body.target, event.body.reason) in LEGAL_CHANGES
            is_paused = event.body.reason == "PAUSED"
            state = event.body.target
            if state == "STARTING":
                attempt += 1
        assert event.attempt in (attempt, 0) or (event.attempt == attempt and state == "STARTING")


def _reason(event: JobEvent) -> str:
    return event.body.reason if isinstance(event.body, StateChange) else ""
