"""A background task that takes one piece of waiting work after another, under a lease."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

import structlog

from catalog_svc.domain.errors import LeaseLost
from catalog_svc.domain.unforeseen import RETRY_SECONDS, pause_after
from catalog_svc.usecases.lease import give_back, under_lease
from meshkit.ids import new_id

F = TypeVar("F")
"""A piece of work, as its store gives it to one worker."""
_LOOK_SECONDS = 2.0


class Outcome(StrEnum):
    """How work ended that did not end by itself."""

    LEASE_LOST = "LEASE_LOST"
    POSTPONED = "POSTPONED"
    UNFORESEEN = "UNFORESEEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedWorker(ABC, Generic[F]):
    """Does work; what a dead replica left behind is taken up when its lease has ended."""

    noun: ClassVar[str]
    """What the work is called in the log."""
    wanted: asyncio.Event
    lease_seconds: float
    is_passing: Callable[[Exception], bool]
    """Tells an error of what is away for the moment from one that nobody has foreseen."""
    pause_seconds: float = RETRY_SECONDS
    """After the first failure that nobody has foreseen; twice as long after each further one."""

    @abstractmethod
    async def claim(self, token: str) -> F | None:
        """The work that has waited longest, under a lease by that token; None when none waits."""

    @abstractmethod
    def about(self, found: F) -> tuple[str, int]:
        """Its id, and how often in a row it failed by what nobody had foreseen."""

    @abstractmethod
    async def work(self, found: F, token: str) -> StrEnum:
        """Does it, or gives it up; returns its state. Raises LeaseLost."""

    @abstractmethod
    async def renew(self, found: F, token: str) -> None:
        """Extends the lease; raises LeaseLost."""

    @abstractmethod
    async def release(self, found: F, token: str, pause: timedelta, *, is_failure: bool) -> None:
        """Gives the lease back; the work is taken up again after the pause."""

    @abstractmethod
    async def rest(self) -> None:
        """What is to be done when nothing waits."""

    def count(self, found: F, outcome: Outcome) -> None:  # not all is counted
        """Counts what did not end by itself."""

    async def run(self) -> None:
        """Works for ever. Several of these may run at once, here and in other replicas."""
        while True:
            self.wanted.clear()
            try:
                while await self.run_one():
                    pass
                await self.rest()
                pause = _LOOK_SECONDS
            except Exception as error:  # database or object store away: the work is taken up again
                structlog.get_logger().warning(f"{self.noun}.postponed", error=repr(error))
                pause = RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.wanted.wait()

    async def run_one(self) -> bool:
        """Does the work that has waited longest; returns whether there was some."""
        token = new_id("lea")
        found = await self.claim(token)
        if found is None:
            return False
        resource, failures = self.about(found)
        logger = structlog.get_logger().bind(resource=resource)
        logger.info(f"{self.noun}.claimed", failures=failures)
        try:
            state = await under_lease(self.work(found, token), lambda: self.renew(found, token), self.lease_seconds)
            logger.info(f"{self.noun}.ended", state=state.value)
        except LeaseLost:
            self.count(found, Outcome.LEASE_LOST)
            logger.info(f"{self.noun}.lease_lost")
        except asyncio.CancelledError:
            # Shielded: a service that stops gives the lease back, so that another replica goes on at once.
            await asyncio.shield(self._give_back(found, token, 0.0, is_stopping=True))
            raise
        except Exception as error:
            if self.is_passing(error):
                # What is away may be back in a moment; meanwhile others have their turn.
                self.count(found, Outcome.POSTPONED)
                await self._give_back(found, token, RETRY_SECONDS)
                raise
            self.count(found, Outcome.UNFORESEEN)
            logger.exception(f"{self.noun}.failed_unforeseen", failures=failures + 1)
            await self._give_back(found, token, pause_after(failures, self.pause_seconds), is_failure=True)
        return True

    async def _give_back(
        self, found: F, token: str, pause_seconds: float, *, is_failure: bool = False, is_stopping: bool = False
    ) -> None:
        def release() -> Awaitable[None]:
            return self.release(found, token, timedelta(seconds=pause_seconds), is_failure=is_failure)

        try:
            # A service that stops waits for nothing that is away.
            await (release() if is_stopping else give_back(release, self.is_passing))
        except Exception as error:  # the lease ends by itself, and counts as a failure
            structlog.get_logger().warning(
                f"{self.noun}.not_released", resource=self.about(found)[0], error=repr(error)
            )
