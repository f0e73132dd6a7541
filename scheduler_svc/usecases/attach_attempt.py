"""Carries one attempt: heartbeats and reports up, acknowledgements and orders down."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from meshkit.failpoints import failpoint
from scheduler_svc import metrics
from scheduler_svc.domain.errors import SchedulerStopping, StaleAttempt
from scheduler_svc.domain.events import Report, Started
from scheduler_svc.domain.ids import AttemptKey
from scheduler_svc.domain.job import JobState
from scheduler_svc.store.attempt_store import AttemptStatus, AttemptStore
from scheduler_svc.store.notifications import JobWatch, Notifications
from scheduler_svc.usecases.issue_tokens import GRANT_TTL, TokenIssuer

WRITE_INTERVAL_SECONDS = 0.2
"""Reports that come faster are gathered and written together, with the newest progress only."""
_RENEW_GRANT_BEFORE_END = GRANT_TTL / 2
_MAX_WAITING = 1000
_IDLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One message to the trainer."""

    acknowledged_report: int
    must_stop: bool
    must_drain: bool
    """It is to give the job back; a stop goes before that."""
    grant: str = ""
    """A new grant; empty while the present one will do."""


class Attachment:
    """One stream of one attempt. Its end says nothing about the attempt: only the lease does."""

    def __init__(
        self,
        key: AttemptKey,
        grant_expire_time: datetime,
        attempts: AttemptStore,
        notifications: Notifications,
        issuer: TokenIssuer,
    ) -> None:
        self._key = key
        self._grant_expire_time = grant_expire_time
        self._attempts = attempts
        self._notifications = notifications
        self._issuer = issuer
        self._acknowledged = 0
        self._written_at = float("-inf")
        self._is_draining = False

    async def run(self, messages: AsyncIterator[Report | None]) -> AsyncIterator[Reply]:
        """Yields the answer to the attaching, then one to each batch of messages (None: a heartbeat) and each order.

        Raises:
            StaleAttempt: the attempt is fenced, now or while attached.
            SchedulerStopping: this replica shuts down; the trainer attaches to the next one.
        """
        with self._notifications.watch(self._key.job_id) as watch, metrics.ATTACHED.track_inprogress():
            status = await self._attempts.check(self._key)
            state = await self._renew()
            self._acknowledged = status.recorded_report
            structlog.get_logger().info("attempt.attached", job_id=self._key.job_id, attempt=self._key.attempt)
            yield self._reply(state, status)
            async with _Inbox(messages, watch) as inbox:
                while (news := await self._next_state(inbox, watch)) is not None:
                    yield self._reply(news, status)

    async def _next_state(self, inbox: _Inbox, watch: JobWatch) -> JobState | None:
        """Returns the job's state when the trainer should hear something; None when the stream has nothing left."""
        while True:
            if self._notifications.is_closing:
                raise SchedulerStopping("the scheduler restarts: attach again")
            if watch.state_changed:
                watch.state_changed = False
                return await self._state_after_change()
            pause = self._written_at + WRITE_INTERVAL_SECONDS - time.monotonic()
            if inbox.has_news and (pause <= 0 or inbox.is_urgent or inbox.is_over):
                reports, has_heartbeat = inbox.take()
                state = await self._write(reports, has_heartbeat=has_heartbeat)
                self._written_at = time.monotonic()
                return state
            if inbox.is_over:
                return None
            await watch.wait(pause if inbox.has_news else _IDLE_SECONDS)

    async def _write(self, reports: list[Report], *, has_heartbeat: bool) -> JobState:
        state: JobState | None = None
        if reports:
            state, self._acknowledged = await self._attempts.record(self._key, reports)
            await failpoint("reports.after_commit")
        if has_heartbeat or state is None:
            state = await self._renew()
        return state

    async def _renew(self) -> JobState:
        renewal = await self._attempts.renew_lease(self._key)
        self._is_draining = renewal.is_draining
        return renewal.state

    async def _state_after_change(self) -> JobState | None:
        """Returns the job's state; None when the trainer itself has ended the attempt."""
        status = await self._attempts.status(self._key)
        self._is_draining = status.is_draining
        if status.is_effective:
            return status.state
        if status.ended_by_trainer:
            return None
        raise StaleAttempt(self._key.job_id, self._key.attempt)

    def _reply(self, state: JobState, status: AttemptStatus) -> Reply:
        must_stop = state is JobState.STOPPING
        return Reply(self._acknowledged, must_stop, self._is_draining and not must_stop, self._new_grant(status))

    def _new_grant(self, status: AttemptStatus) -> str:
        left: timedelta = self._grant_expire_time - datetime.now(self._grant_expire_time.tzinfo)
        if left > _RENEW_GRANT_BEFORE_END:
            return ""
        issued = self._issuer.grant(self._key, status.worker_id, dataset_id=status.dataset_id, model_id=status.model_id)
        self._grant_expire_time = issued.expire_time
        return issued.token


class _Inbox:
    """Reads a stream ahead, so that what arrives together can be written together."""

    def __init__(self, messages: AsyncIterator[Report | None], watch: JobWatch) -> None:
        self._messages = messages
        self._watch = watch
        self._reports: list[Report] = []
        self._has_heartbeat = False
        self._has_room = asyncio.Event()
        self._error: BaseException | None = None
        self.is_over = False
        self.is_urgent = False

    async def __aenter__(self) -> _Inbox:
        self._task = asyncio.create_task(self._read(), name="attach.inbox")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def has_news(self) -> bool:
        return bool(self._reports) or self._has_heartbeat or self._error is not None

    def take(self) -> tuple[list[Report], bool]:
        """Returns the reports that have come, and whether a heartbeat has; then raises what the stream raised."""
        if self._error is not None and not self._reports:
            raise self._error
        taken = self._reports, self._has_heartbeat
        self._reports, self._has_heartbeat, self.is_urgent = [], False, False
        self._has_room.set()
        return taken

    async def _read(self) -> None:
        try:
            async for message in self._messages:
                if message is None:
                    # Answered at once: with it a trainer asks for what came before to be recorded now.
                    self._has_heartbeat = self.is_urgent = True
                else:
                    self._reports.append(message)
                    self.is_urgent = self.is_urgent or isinstance(message.body, Started)
                self._watch.wake()
                while len(self._reports) >= _MAX_WAITING:
                    self._has_room.clear()
                    await self._has_room.wait()
        except Exception as error:  # raised again to whoever takes: a task of its own would swallow it
            self._error = error
        finally:
            self.is_over = True
            self._watch.wake()
