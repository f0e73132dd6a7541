"""Wake-ups from the queue: a hint to claim now instead of at the next tick, never the truth."""

from __future__ import annotations

import asyncio
import contextlib

from meshkit.jetstream import Delivery, JetStream, NatsUnavailable, pull
from trainer_svc.domain.device import DeviceClass

STREAM = "JOBS"
_ANY = "any"
_AGAIN_SECONDS = 2.0


class Wakeups:
    """Takes wake-ups while the trainer is idle, and leaves them to others while it is not."""

    def __init__(self, jetstream: JetStream | None) -> None:
        """Without a queue, `wait` is a timer."""
        self._jetstream = jetstream
        self._idle = asyncio.Event()
        self._arrived = asyncio.Event()
        self._taken: list[Delivery] = []

    async def run(self, device_class: DeviceClass) -> None:
        """Listens for this device's wake-ups for ever."""
        if self._jetstream is None:
            await asyncio.Event().wait()
        else:
            classes = (_ANY, device_class.lower())
            await asyncio.gather(*(self._listen(self._jetstream, f"trainers-{name}") for name in classes))

    async def wait(self, seconds: float) -> None:
        """Returns at the next wake-up, at the latest after `seconds`; the trainer is idle while it waits here."""
        self._idle.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        self._idle.clear()

    async def settle(self, *, was_claimed_for: bool) -> None:
        """Acknowledges the wake-ups taken, as the scheduler has been asked; or gives them back, if it could not be."""
        taken, self._taken = self._taken, []
        self._arrived.clear()
        for delivery in taken:
            # A wake-up that cannot be acknowledged comes again and costs one more question.
            with contextlib.suppress(NatsUnavailable):
                await (delivery.ack() if was_claimed_for else delivery.retry_later(_AGAIN_SECONDS))

    async def _listen(self, jetstream: JetStream, durable: str) -> None:
        async for delivery in pull(jetstream, STREAM, durable):
            if self._idle.is_set():
                self._taken.append(delivery)
                self._arrived.set()
                # One wake-up is enough: the next one is for another trainer unless this one finds nothing to do.
                self._idle.clear()
            else:
                # It came while the pull for it was open and a job was being claimed: it may be another trainer's.
                with contextlib.suppress(NatsUnavailable):
                    await delivery.retry_later(_AGAIN_SECONDS)
            await self._idle.wait()
