"""The importers: background tasks that take one running import after another, under a lease."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from catalog_svc.domain.errors import LeaseLost
from catalog_svc.domain.imports import Import
from catalog_svc.domain.unforeseen import MAX_FAILURES, RETRY_SECONDS, pause_after
from catalog_svc.store.import_store import ImportStore
from catalog_svc.usecases.lease import give_back, under_lease
from catalog_svc.usecases.run_import import RunImport
from meshkit.ids import new_id

LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class RunImports:
    """Runs imports; those that a dead replica left behind are taken up when their lease has ended."""

    imports: ImportStore
    run_import: RunImport
    wanted: asyncio.Event
    lease_seconds: float
    is_passing: Callable[[Exception], bool]
    """Tells an error of what is away for the moment from one that nobody has foreseen."""
    pause_seconds: float = RETRY_SECONDS
    """After the first failure that nobody has foreseen; twice as long after each further one."""

    async def run(self) -> None:
        """Works for ever. Several of these may run at once, here and in other replicas."""
        while True:
            self.wanted.clear()
            pause = LOOK_SECONDS
            try:
                while await self.run_one():
                    pass
                await self.imports.forget_files()
            except Exception as error:  # database or object store away: the work is taken up again
                structlog.get_logger().warning("import.postponed", error=repr(error))
                pause = RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.wanted.wait()

    async def run_one(self) -> bool:
        """Runs the import that has waited longest; returns whether there was one."""
        token = new_id("lea")
        found = await self.imports.claim(token)
        if found is None:
            return False
        logger = structlog.get_logger().bind(resource=found.id)
        logger.info("import.claimed", failures=found.failures)
        work = self.run_import.run if found.failures < MAX_FAILURES else self.run_import.give_up
        try:
            state = await under_lease(
                work(found, token), lambda: self.imports.renew(found.id, token), self.lease_seconds
            )
            logger.info("import.ended", state=state.value)
        except LeaseLost:
            logger.info("import.lease_lost")
        except asyncio.CancelledError:
            # Shielded: a service that stops gives the lease back, so that another replica goes on at once.
            await asyncio.shield(self._release(found, token, 0.0, is_stopping=True))
            raise
        except Exception as error:
            if self.is_passing(error):
                # What is away may be back in a moment; meanwhile others have their turn.
                await self._release(found, token, RETRY_SECONDS)
                raise
            logger.exception("import.failed_unforeseen", failures=found.failures + 1)
            await self._release(found, token, pause_after(found.failures, self.pause_seconds), is_failure=True)
        return True

    async def _release(
        self, found: Import, token: str, pause_seconds: float, *, is_failure: bool = False, is_stopping: bool = False
    ) -> None:
        async def release() -> None:
            pause = timedelta(seconds=pause_seconds)
            await self.imports.release(found.id, token, pause, is_failure=is_failure)

        try:
            # A service that stops waits for nothing that is away.
            await (release() if is_stopping else give_back(release, self.is_passing))
        except Exception as error:  # the lease ends by itself, and counts as a failure
            structlog.get_logger().warning("import.not_released", resource=found.id, error=repr(error))
