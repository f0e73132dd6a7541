"""One LISTEN connection per replica, and everybody in this process who waits for something to change."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NoReturn

from meshkit.postgres import listen
from scheduler_svc.domain.ids import JobId
from scheduler_svc.store.job_changes import JOB_CHANNEL, OUTBOX_CHANNEL


class JobWatch:
    """Somebody who waits for news of one job."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self.state_changed = False
        """The state may have changed since this was last set to False."""

    async def wait(self, timeout_seconds: float) -> None:
        """Returns when there is news, or after the timeout; news that came before counts."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._wake.wait()
        self._wake.clear()

    def wake(self, *, state_changed: bool = False) -> None:
        """Ends the wait."""
        self.state_changed = self.state_changed or state_changed
        self._wake.set()


class Notifications:
    """Hands what Postgres notifies to those who wait.

    A notification only says "look again"; whoever misses one finds the news by looking again anyway. After a break of
    the connection everybody is told to look.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._watches: dict[JobId, set[JobWatch]] = defaultdict(set)
        self.outbox = asyncio.Event()
        """Set when there may be something to publish."""
        self.is_closing = False
        """The service stops: streams end."""

    @contextlib.contextmanager
    def watch(self, job_id: JobId) -> Iterator[JobWatch]:
        """Gives a watch that wakes on news of the job for as long as the block runs."""
        watch = JobWatch()
        self._watches[job_id].add(watch)
        try:
            yield watch
        finally:
            self._watches[job_id].discard(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]

    async def run(self) -> NoReturn:
        """Listens for ever; connects again when the connection breaks."""
        heard = {JOB_CHANNEL: self._on_job, OUTBOX_CHANNEL: self._on_outbox}
        await listen(self._dsn, heard, self._wake_all, name="notifications")

    async def close_when(self, stopping: asyncio.Event) -> None:
        """Ends all watches once the service begins to stop."""
        await stopping.wait()
        self.is_closing = True
        self._wake_all()

    def _on_job(self, payload: str) -> None:
        job_id, _, what = payload.partition(" ")
        for watch in self._watches.get(JobId(job_id), ()):
            watch.wake(state_changed=what == "state")

    def _on_outbox(self, _payload: str) -> None:
        self.outbox.set()

    def _wake_all(self) -> None:
        self.outbox.set()
        for watches in self._watches.values():
            for watch in watches:
                watch.wake(state_changed=True)
