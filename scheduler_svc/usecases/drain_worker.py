"""Takes a trainer out of service, and puts it back."""

from __future__ import annotations

import structlog

from scheduler_svc.domain.ids import UserId, WorkerId
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.domain.worker import Worker
from scheduler_svc.store.worker_store import WorkerStore


async def drain_worker(worker_id: WorkerId, by: UserId, key: RequestKey | None, workers: WorkerStore) -> Worker:
    """Returns the worker, which gets no more jobs and gives back the one that it has.

    Raises:
        WorkerNotFound, RequestIdReused: as the contract says.
    """
    worker = await workers.drain(worker_id, key)
    structlog.get_logger().info("audit.worker_drained", by=by, worker_id=worker_id, state=worker.state)
    return worker


async def resume_worker(worker_id: WorkerId, by: UserId, key: RequestKey | None, workers: WorkerStore) -> Worker:
    """Returns the worker, which takes jobs again.

    Raises:
        WorkerNotFound, RequestIdReused: as the contract says.
    """
    worker = await workers.resume(worker_id, key)
    structlog.get_logger().info("audit.worker_resumed", by=by, worker_id=worker_id, state=worker.state)
    return worker
