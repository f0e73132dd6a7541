"""One model, many who ask: turns by client, and a bound on how many wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

from trainer_svc.domain.errors import InferenceBusyError
from trainer_svc.domain.fair_queue import FairQueue

_SECONDS_PER_TURN = 2


class Turns:
    """Lets one holder at a time through."""

    def __init__(self, waiting: int) -> None:
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(waiting)
        self._is_taken = False

    @property
    def is_taken(self) -> bool:
        """True while somebody has the turn."""
        return self._is_taken

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return len(self._queue)

    def check_room(self) -> None:
        """Raises InferenceBusyError where `turn` would: before what is prepared for it costs anything."""
        if self._is_taken and self._queue.is_full:
            delay = timedelta(seconds=_SECONDS_PER_TURN * len(self._queue))
            raise InferenceBusyError(f"{len(self._queue)} questions wait already", delay)

    @contextlib.asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Waits for the client's turn and holds it for the block.

        Raises:
            InferenceBusyError: too many wait already.
        """
        if self._is_taken:
            await self._wait(client)
        self._is_taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: str) -> None:
        self.check_room()
        ticket = asyncio.get_running_loop().create_future()
        self._queue.add(client, ticket)
        try:
            await ticket
        except asyncio.CancelledError:
            # The turn may have come in the very moment of leaving: somebody else must get it then.
            if not self._queue.remove(client, ticket) and not ticket.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while (ticket := self._queue.next()) is not None:
            if not ticket.done():
                ticket.set_result(None)
                return
        self._is_taken = False
