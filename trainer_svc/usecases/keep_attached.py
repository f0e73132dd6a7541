"""Keep an attempt's stream to the scheduler: reports and heartbeats up, acknowledgements and orders down."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import NoReturn

import structlog

from meshkit.cancellation import cancel_all
from trainer_svc import metrics
from trainer_svc.clients.scheduler import AttemptStream, SchedulerClient
from trainer_svc.domain.backoff import Backoff
from trainer_svc.domain.errors import (
    AttemptFencedError,
    CallRefusedError,
    CredentialRefusedError,
    SchedulerUnavailableError,
)
from trainer_svc.domain.limits import AttemptLimits
from trainer_svc.usecases.live_attempt import LiveAttempt


async def keep_attached(attempt: LiveAttempt, scheduler: SchedulerClient, limits: AttemptLimits) -> NoReturn:
    """Attaches, and attaches again after every break, until the attempt is fenced.

    Raises:
        AttemptFencedError: the attempt is worth nothing any more.
    """
    log = structlog.get_logger().bind(job_id=attempt.claim.job_id, attempt=attempt.claim.attempt)
    # No longer than a heartbeat: the lease outlasts several.
    backoff = Backoff(first=0.2, longest=max(0.2, min(5.0, limits.heartbeat)))
    refused_since: float | None = None
    while True:
        try:
            async with scheduler.attach(attempt.grant) as stream:
                conversation = _Conversation(attempt, stream, limits)
                await conversation.open()
                log.info("attempt.attached", unacknowledged=not attempt.reports.is_empty)
                backoff.reset()
                refused_since = None
                await conversation.go_on()
        except CallRefusedError as error:
            raise AttemptFencedError(str(error)) from error
        except CredentialRefusedError as error:
            metrics.SCHEDULER_REACHED.set(0)
            refused_since = refused_since or time.monotonic()
            if time.monotonic() - refused_since > limits.lost_grant:
                raise AttemptFencedError(f"the grant is refused: {error}") from error
        except SchedulerUnavailableError as error:
            metrics.SCHEDULER_REACHED.set(0)
            # One line for the break, not one for every try.
            if backoff.failures == 0:
                log.warning("attempt.detached", cause=str(error))
        attempt.reports.rewind()
        await asyncio.sleep(backoff.next_delay())


class _Conversation:
    """One stream, from attaching to its end."""

    def __init__(self, attempt: LiveAttempt, stream: AttemptStream, limits: AttemptLimits) -> None:
        self._attempt = attempt
        self._stream = stream
        self._limits = limits

    async def open(self) -> None:
        """Attaches and waits for the scheduler's first message."""
        await self._stream.send_heartbeat()
        await self._receive()

    async def go_on(self) -> NoReturn:
        """Sends and receives until the stream breaks."""
        sending = asyncio.create_task(self._send_all(), name="attempt-reports")
        receiving = asyncio.create_task(self._receive_all(), name="attempt-answers")
        try:
            done, _ = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            # A broken stream shows in receiving; sending fails by faults of ours alone.
            raise (receiving if receiving in done else sending).exception() or AssertionError("a stream ended well")
        finally:
            await cancel_all(sending, receiving)

    async def _receive_all(self) -> NoReturn:
        while True:
            await self._receive()

    async def _receive(self) -> None:
        try:
            async with asyncio.timeout(self._limits.silence):
                answer = await self._stream.receive()
        except TimeoutError as error:
            raise SchedulerUnavailableError(f"no answer for {self._limits.silence:.0f} s") from error
        metrics.SCHEDULER_REACHED.set(1)
        attempt = self._attempt
        attempt.reports.acknowledge(answer.report)
        attempt.acknowledged.set()
        # Acknowledged reports make room in the window for those that wait.
        attempt.has_news.set()
        if answer.grant:
            attempt.grant = answer.grant
        if answer.has_stop_order and not attempt.stop_ordered.is_set():
            structlog.get_logger().info("attempt.stop_ordered", job_id=attempt.claim.job_id)
            attempt.order_stop()
        if answer.has_drain_order and not attempt.drain_ordered.is_set():
            structlog.get_logger().info("attempt.drain_ordered", job_id=attempt.claim.job_id)
            attempt.order_drain()

    async def _send_all(self) -> None:
        attempt = self._attempt
        next_heartbeat = time.monotonic() + self._limits.heartbeat
        while True:
            attempt.has_news.clear()
            while (report := attempt.reports.take()) is not None:
                await self._stream.send(report)
            if attempt.is_answer_wanted:
                attempt.is_answer_wanted = False
                await self._stream.send_heartbeat()
            # Not `wait_for`, which in Python 3.11 loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_heartbeat - time.monotonic())):
                    await attempt.has_news.wait()
            if time.monotonic() >= next_heartbeat:
                await self._stream.send_heartbeat()
                next_heartbeat = time.monotonic() + self._limits.heartbeat
