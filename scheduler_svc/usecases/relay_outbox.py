"""Publishes wake-ups. Nothing depends on it but speed: trainers also ask by themselves."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import structlog

from meshkit.jetstream import NatsUnavailable
from meshkit.postgres.trouble import POSTGRES_TROUBLE
from scheduler_svc import metrics
from scheduler_svc.clients.wake_ups import WakeUps
from scheduler_svc.domain.waking import choose_to_send
from scheduler_svc.store.notifications import Notifications
from scheduler_svc.store.outbox_store import OutboxStore

_BATCH = 200
_IDLE_SECONDS = 5.0
_PAUSE_SECONDS = 0.02
_ALL_TOLD_PAUSE_SECONDS = 0.1
"""Once every idle trainer has been woken, further wake-ups may wait for each other: who becomes idle asks by itself."""
_RETRY_SECONDS = 1.0
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RelayOutcome:
    """What a round of the relay has found."""

    is_full: bool
    """There may be more that is due."""
    all_told: bool
    """There were more wake-ups than trainers to wake."""


class OutboxRelay:
    """Takes rows from the outbox, publishes what may wake somebody, and deletes them once the broker has it on disk."""

    def __init__(self, outbox: OutboxStore, wake_ups: WakeUps, notifications: Notifications) -> None:
        self._outbox = outbox
        self._wake_ups = wake_ups
        self._notifications = notifications
        self._connection = 0

    async def run(self) -> None:
        """Relays for ever; while the broker is away the rows wait."""
        while True:
            try:
                await self._wake_ups.wait_connected(_CONNECT_SECONDS)
                await self._welcome_broker()
                self._notifications.outbox.clear()
                while (outcome := await self.relay()).is_full:
                    pass
                await self._wait(_ALL_TOLD_PAUSE_SECONDS if outcome.all_told else _PAUSE_SECONDS)
            except (NatsUnavailable, *POSTGRES_TROUBLE) as error:
                metrics.RELAY_FAILURES.inc()
                structlog.get_logger().warning("relay.failed", cause=repr(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def relay(self) -> RelayOutcome:
        """Publishes one batch. Raises NatsUnavailable when the broker is away."""
        async with self._outbox.take(_BATCH) as batch:
            sent, spared = choose_to_send(batch.wake_ups, batch.idle_trainers)
            troubles = await self._wake_ups.publish_all(sent)
            batch.published += [wake_up.id for wake_up, trouble in zip(sent, troubles, strict=True) if trouble is None]
            metrics.WAKE_UPS.inc(len(batch.published))
            if not any(troubles):
                batch.published += [wake_up.id for wake_up in spared]
        # Raised outside: what was published in spite of the trouble is published.
        for trouble in troubles:
            if trouble is not None:
                raise trouble
        return RelayOutcome(is_full=len(batch.wake_ups) == _BATCH, all_told=bool(spared))

    async def _welcome_broker(self) -> None:
        await self._wake_ups.prepare()
        connection = self._wake_ups.connection
        if connection != self._connection:
            # It may have lost its store: what it still has, it drops as known.
            await self._outbox.republish_all()
            self._connection = connection

    async def _wait(self, pause_seconds: float) -> None:
        # Jobs that come in quick succession share a round.
        await asyncio.sleep(pause_seconds)
        if self._notifications.outbox.is_set():
            return
        due = await self._outbox.next_due()
        pause = _IDLE_SECONDS if due is None else min(max(due.total_seconds(), 0.01), _IDLE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._notifications.outbox.wait()
