"""An attempt while it runs here: what its parts share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from trainer_svc.domain.attempt import JobClaim
from trainer_svc.domain.errors import AttemptNotHereError
from trainer_svc.domain.report_buffer import ReportBuffer
from trainer_svc.domain.reports import LogLine, Progress, Report
from trainer_svc.domain.subscription import Subscription


class LiveAttempt:
    """One claimed attempt: its grant, its reports, the orders it got, and who watches it."""

    def __init__(self, claim: JobClaim) -> None:
        self.claim = claim
        self.grant = claim.grant
        """The grant to use now; `Attach` renews it."""
        self.start_time = datetime.now(UTC)
        self.progress = Progress(phase="claimed")
        self.reports = ReportBuffer()
        self.has_news = asyncio.Event()
        """Set when something waits to be sent."""
        self.is_answer_wanted = False
        """Somebody waits for the reports to be recorded: the scheduler is asked to do so now and not a little later."""
        self.acknowledged = asyncio.Event()
        """Set whenever the scheduler has recorded something."""
        self.stop_ordered = asyncio.Event()
        """A user stopped the job."""
        self.stop_time: float | None = None
        """When the order to stop came, by `time.monotonic`."""
        self.drain_ordered = asyncio.Event()
        """The job is to be given back: the trainer goes away, or an operator wants it free."""
        self.drain_time: float | None = None
        """When it was told so, by `time.monotonic`."""
        self._subscriptions: dict[Subscription, asyncio.Event] = {}

    def order_stop(self) -> None:
        """Passes a user's order to stop on to whatever the attempt is at; repeating it changes nothing."""
        if self.stop_time is None:
            self.stop_time = time.monotonic()
            self.stop_ordered.set()

    def order_drain(self) -> None:
        """Has the attempt given back at its next step; repeating it changes nothing."""
        if self.drain_time is None:
            self.drain_time = time.monotonic()
            self.drain_ordered.set()

    @property
    def name(self) -> str:
        """Unique among all attempts: `job_…-2`."""
        return f"{self.claim.job_id}-{self.claim.attempt}"

    def report(self, report: Report) -> None:
        """Sends a report on its way to the scheduler and shows it to the watchers."""
        if isinstance(report, Progress):
            self.progress = report
        self.reports.add(report)
        self.has_news.set()
        for subscription, changed in self._subscriptions.items():
            subscription.add(report)
            changed.set()

    def show_phase(self, phase: str) -> None:
        """Reports what the attempt is at; the figures stay."""
        self.report(replace(self.progress, phase=phase))

    def log(self, level: str, text: str) -> None:
        """Adds a line to the job's log."""
        self.report(LogLine(level, text))

    async def wait_for_room(self) -> None:
        """Returns once the scheduler has recorded enough for more to be added."""
        while self.reports.is_full:
            self.acknowledged.clear()
            await self.acknowledged.wait()

    async def flush(self, seconds: float) -> None:
        """Waits until all reports are recorded, at most for `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.reports.is_empty:
                    self.is_answer_wanted = True
                    self.has_news.set()
                    self.acknowledged.clear()
                    await self.acknowledged.wait()

    async def watch(self) -> AsyncGenerator[Report, None]:
        """Yields the newest progress, then every report, until the attempt has ended."""
        subscription, changed = Subscription(), asyncio.Event()
        subscription.add(self.progress)
        self._subscriptions[subscription] = changed
        try:
            while True:
                changed.clear()
                while (report := subscription.take()) is not None:
                    yield report
                if subscription.is_closed:
                    return
                await changed.wait()
        finally:
            self._subscriptions.pop(subscription, None)

    def close(self) -> None:
        """Lets the watchers go: the attempt has ended."""
        for subscription, changed in self._subscriptions.items():
            subscription.close()
            changed.set()


class LiveAttempts:
    """The attempts that run on this trainer now."""

    def __init__(self) -> None:
        self._by_job: dict[str, LiveAttempt] = {}

    @contextlib.contextmanager
    def running(self, attempt: LiveAttempt) -> Iterator[None]:
        """Lists `attempt` for as long as the block takes."""
        self._by_job[attempt.claim.job_id] = attempt
        try:
            yield
        finally:
            self._by_job.pop(attempt.claim.job_id, None)
            attempt.close()

    def of_owner(self, owner_id: str) -> list[LiveAttempt]:
        """The owner's attempts, oldest first."""
        owned = [attempt for attempt in self._by_job.values() if attempt.claim.owner_id == owner_id]
        return sorted(owned, key=lambda attempt: attempt.start_time)

    def find(self, job_id: str) -> LiveAttempt:
        """The attempt of a job.

        Raises:
            AttemptNotHereError: there is none here.
        """
        attempt = self._by_job.get(job_id)
        if attempt is None:
            raise AttemptNotHereError(job_id)
        return attempt

    @property
    def is_empty(self) -> bool:
        return not self._by_job
