"""Takes jobs from trainers that went silent or do not stop, and clears up."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import timedelta

import structlog

from meshkit.failpoints import failpoint
from meshkit.postgres.trouble import POSTGRES_TROUBLE
from scheduler_svc import metrics
from scheduler_svc.domain.presence import Presence
from scheduler_svc.store.expiry_store import ExpiryStore
from scheduler_svc.store.outbox_store import OutboxStore
from scheduler_svc.store.quota_store import QuotaStore
from scheduler_svc.store.request_store import RequestStore
from scheduler_svc.store.worker_store import WorkerStore

_HOUSEKEEPING_SECONDS = 600.0
_REQUEST_ID_AGE = timedelta(days=7)
_LOST_WORKER_AGE = timedelta(days=7)
_DEVICE_USAGE_AGE = timedelta(days=8)
_LEAST_PAUSE_SECONDS = 0.02


class Sweeper:
    """Runs on every replica at once: row locks that are passed by keep them from doing anything twice."""

    def __init__(
        self,
        expiry: ExpiryStore,
        outbox: OutboxStore,
        requests: RequestStore,
        workers: WorkerStore,
        quotas: QuotaStore,
        *,
        lease: timedelta,
        interval_seconds: float,
    ) -> None:
        self._lease = lease
        self._interval_seconds = interval_seconds
        self._silence = max(lease / 2, 3 * timedelta(seconds=interval_seconds))
        self.presence = Presence(lease.total_seconds(), self._silence.total_seconds())
        self._expiry = expiry
        self._outbox = outbox
        self._requests = requests
        self._workers = workers
        self._quotas = quotas

    async def run(self) -> None:
        """Sweeps for ever, at least once in `interval_seconds` and whenever a deadline is due."""
        housekeeping_at = time.monotonic() + _HOUSEKEEPING_SECONDS
        while True:
            pause = self._interval_seconds
            try:
                await self.sweep()
                metrics.SWEEPS.labels("ok").inc()
                if time.monotonic() >= housekeeping_at:
                    await self._keep_house()
                    housekeeping_at = time.monotonic() + _HOUSEKEEPING_SECONDS
                pause = await self._pause()
            except POSTGRES_TROUBLE as error:
                metrics.SWEEPS.labels("failed").inc()
                structlog.get_logger().warning("sweep.failed", cause=repr(error))
            await asyncio.sleep(pause)

    async def sweep(self) -> None:
        """Ends every lease and stop grace that is over, and puts lost wake-ups back into the outbox.

        Only if this replica has been there for as long as a lease: trainers that it, or another one, left alone have
        had the time to come back. After a silence of all replicas leases begin anew besides.
        """
        try:
            renewed = await self._expiry.note_sweep(self._lease, self._silence)
        except POSTGRES_TROUBLE:
            self.presence.lose()
            raise
        if renewed:
            metrics.LEASES_RENEWED.inc(renewed)
            structlog.get_logger().warning("leases.renewed_after_silence", attempts=renewed)
        self.presence.note(time.monotonic())
        if not self.presence.missing(time.monotonic()):
            await self._end_what_is_over()
        await self._outbox.republish_waiting()

    async def _end_what_is_over(self) -> None:
        while (job := await self._expiry.expire_one(dice=random.random())) is not None:  # noqa: S311  # no secret
            await failpoint("sweep.after_commit")
            structlog.get_logger().warning(
                "lease.expired", job_id=job.id, attempt=job.attempt, worker_id=job.worker_id, state=job.state
            )

    async def _pause(self) -> float:
        wait = await self._expiry.next_deadline()
        if wait is None:
            return self._interval_seconds
        earliest = max(wait.total_seconds(), self.presence.missing(time.monotonic()), _LEAST_PAUSE_SECONDS)
        return min(earliest, self._interval_seconds)

    async def _keep_house(self) -> None:
        await self._requests.forget_old(_REQUEST_ID_AGE)
        await self._workers.forget_lost(_LOST_WORKER_AGE)
        await self._quotas.forget_old_usage(_DEVICE_USAGE_AGE)
