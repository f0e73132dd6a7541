"""The validators: background tasks that take one waiting entry after another, under a lease."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import structlog

from catalog_svc.domain.entry import Entry, EntryKind, EntryState
from catalog_svc.domain.errors import LeaseLost
from catalog_svc.probe.pool import ProbePool
from catalog_svc.store.validation_store import ValidationStore
from catalog_svc.usecases.lease import under_lease
from catalog_svc.usecases.validate_dataset import ValidateDataset
from catalog_svc.usecases.validate_model import ValidateModel
from meshkit.ids import new_id

LOOK_SECONDS = 2.0
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RunValidations:
    """Runs validations; those that a dead replica left behind are taken up when their lease has ended."""

    validations: ValidationStore
    validate_dataset: ValidateDataset
    validate_model: ValidateModel
    pool: ProbePool
    wanted: asyncio.Event
    lease_seconds: float

    async def run(self) -> None:
        """Works for ever. Several of these may run at once, here and in other replicas."""
        while True:
            self.wanted.clear()
            try:
                while await self.run_one():
                    pass
                await self.pool.close()  # nothing waits: no need to keep children
                pause = LOOK_SECONDS
            except Exception as error:  # database or object store away: the lease ends, and the work is taken up again
                structlog.get_logger().warning("validation.postponed", error=repr(error))
                pause = _RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.wanted.wait()

    async def run_one(self) -> bool:
        """Validates the entry that has waited longest; returns whether there was one."""
        token = new_id("val")
        entry = await self.validations.claim(token)
        if entry is None:
            return False
        logger = structlog.get_logger().bind(resource=entry.id)
        logger.info("validation.claimed")
        try:
            state = await under_lease(
                self._validate(entry, token), lambda: self.validations.renew(entry.id, token), self.lease_seconds
            )
            logger.info("validation.ended", state=state.value)
        except LeaseLost:
            logger.warning("validation.lease_lost")
        except asyncio.CancelledError:
            # Shielded: a service that stops gives the lease back, so that another replica goes on at once. After any
            # other trouble the lease stays until it ends: by then the cause may be gone, and others had their turn.
            await asyncio.shield(self._release(entry, token))
            raise
        return True

    async def _validate(self, entry: Entry, token: str) -> EntryState:
        if entry.kind is EntryKind.DATASET:
            async with self.validate_dataset.checked(entry.id) as (verdict, samples):
                return await self.validations.end_dataset(entry.id, token, verdict, samples)
        return await self.validations.end_model(entry.id, token, await self.validate_model.check(entry.id))

    async def _release(self, entry: Entry, token: str) -> None:
        try:
            await self.validations.release(entry.id, token)
        except Exception as error:  # the database is away: the lease ends by itself
            structlog.get_logger().warning("validation.not_released", resource=entry.id, error=repr(error))
