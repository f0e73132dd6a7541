"""Wake-ups from the queue: a hint to claim now instead of at the next tick, never the truth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from meshkit.jetstream import Delivery, JetStream, NatsUnavailable, pull
from trainer_svc.domain.device import DeviceClass

STREAM = "JOBS"
WakeUps: TypeAlias = Sequence[Delivery]
_ANY = "any"
_AGAIN_SECONDS = 2.0
_TRAINERS_TO_TRY = 3
"""How many trainers a wake-up is shown to that have no use for it: what it is about may fit the next one only."""


class Wakeups:
    """Takes wake-ups while the trainer is free, and leaves them to others while it is not."""

    def __init__(self, jetstream: JetStream | None) -> None:
        """Without a queue, `wait` is a timer."""
        self._jetstream = jetstream
        self._is_busy = False
        self._pulling = asyncio.Event()
        self._pulling.set()
        self._arrived = asyncio.Event()
        self._waiting: list[Delivery] = []
        self._settling: asyncio.Queue[tuple[Delivery, float | None]] = asyncio.Queue()

    async def run(self, device_class: DeviceClass) -> None:
        """Listens for this device's wake-ups for ever."""
        if self._jetstream is None:
            await asyncio.Event().wait()
        else:
            classes = (_ANY, device_class.lower())
            listening = (self._listen(self._jetstream, f"trainers-{name}") for name in classes)
            await asyncio.gather(*listening, self._settle_all())

    async def wait(self, seconds: float) -> None:
        """Returns once a wake-up waits, at the latest after `seconds`."""
        self._pulling.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()

    def take(self) -> WakeUps:
        """The wake-ups that wait. To be called before asking the scheduler: one that comes while it is asked may be
        about a job that it did not see yet."""
        taken, self._waiting = self._waiting, []
        self._arrived.clear()
        return taken

    @contextlib.contextmanager
    def left_to_others(self) -> Iterator[None]:
        """Gives wake-ups back while the block runs: the trainer has a job."""
        self._is_busy = True
        self._pulling.clear()
        self.hand_on(self.take())
        try:
            yield
        finally:
            self._is_busy = False

    def heeded(self, taken: WakeUps) -> None:
        """They have brought a job."""
        for delivery in taken:
            self._settling.put_nowait((delivery, None))

    def hand_on(self, taken: WakeUps) -> None:
        """They have brought nothing here: another trainer may have more use for them."""
        for delivery in taken:
            self._settling.put_nowait((delivery, 0.0 if delivery.attempt < _TRAINERS_TO_TRY or self._is_busy else None))

    def put_off(self, taken: WakeUps) -> None:
        """The scheduler could not be asked."""
        for delivery in taken:
            self._settling.put_nowait((delivery, _AGAIN_SECONDS))

    async def _settle_all(self) -> None:
        """Beside everything else: neither a slow broker nor one that is gone may delay a job that was claimed."""
        while True:
            delivery, again = await self._settling.get()
            # A wake-up that cannot be settled comes again and costs one more question.
            with contextlib.suppress(NatsUnavailable):
                await (delivery.ack() if again is None else delivery.retry_later(again))

    async def _listen(self, jetstream: JetStream, durable: str) -> None:
        async for delivery in pull(jetstream, STREAM, durable):
            if self._is_busy:
                # It came while the pull for it was still open.
                self.hand_on([delivery])
            else:
                self._waiting.append(delivery)
                self._arrived.set()
                # One wake-up is enough: the next one is for another trainer unless this one finds nothing to do.
                self._pulling.clear()
            await self._pulling.wait()
