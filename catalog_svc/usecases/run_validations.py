"""The validators: background tasks that take one waiting entry after another, under a lease."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from catalog_svc import metrics
from catalog_svc.domain import issue
from catalog_svc.domain.dataset import DatasetFindings
from catalog_svc.domain.dataset_check import DatasetVerdict
from catalog_svc.domain.entry import Entry, EntryKind, EntryState
from catalog_svc.domain.errors import LeaseLost
from catalog_svc.domain.model import ModelIssue, ModelVerdict
from catalog_svc.domain.unforeseen import MAX_FAILURES, RETRY_SECONDS, pause_after
from catalog_svc.probe.pool import ProbePool
from catalog_svc.store.validation_store import ClaimedValidation, ValidationStore
from catalog_svc.usecases.lease import give_back, under_lease
from catalog_svc.usecases.validate_dataset import ValidateDataset
from catalog_svc.usecases.validate_model import ValidateModel
from meshkit.ids import new_id

LOOK_SECONDS = 2.0
GIVEN_UP = "VALIDATION_FAILED"
"""The reason of the one issue of an entry that could not be validated, though nothing is known to be wrong with it."""


@dataclass(frozen=True, slots=True)
class RunValidations:
    """Runs validations; those that a dead replica left behind are taken up when their lease has ended."""

    validations: ValidationStore
    validate_dataset: ValidateDataset
    validate_model: ValidateModel
    pool: ProbePool
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
            try:
                while await self.run_one():
                    pass
                await self.pool.close()  # nothing waits: no need to keep children
                pause = LOOK_SECONDS
            except Exception as error:  # database or object store away: the work is taken up again
                structlog.get_logger().warning("validation.postponed", error=repr(error))
                pause = RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.wanted.wait()

    async def run_one(self) -> bool:
        """Validates the entry that has waited longest; returns whether there was one."""
        token = new_id("val")
        found = await self.validations.claim(token)
        if found is None:
            return False
        entry = found.entry
        logger = structlog.get_logger().bind(resource=entry.id)
        logger.info("validation.claimed", failures=found.failures)
        began = time.monotonic()
        work = self._validate(entry, token) if found.failures < MAX_FAILURES else self._give_up(found, token)
        try:
            state = await under_lease(work, lambda: self.validations.renew(entry.id, token), self.lease_seconds)
            logger.info("validation.ended", state=state.value)
            metrics.VALIDATIONS.labels(entry.kind.noun, state.value).inc()
            metrics.VALIDATION_SECONDS.labels(entry.kind.noun).observe(time.monotonic() - began)
        except LeaseLost:
            metrics.VALIDATIONS.labels(entry.kind.noun, "LEASE_LOST").inc()
            logger.warning("validation.lease_lost")
        except asyncio.CancelledError:
            # Shielded: a service that stops gives the lease back, so that another replica goes on at once.
            await asyncio.shield(self._release(entry, token, 0.0, is_stopping=True))
            raise
        except Exception as error:
            if self.is_passing(error):
                # What is away may be back in a moment; meanwhile others have their turn.
                metrics.VALIDATIONS.labels(entry.kind.noun, "POSTPONED").inc()
                await self._release(entry, token, RETRY_SECONDS)
                raise
            metrics.VALIDATIONS.labels(entry.kind.noun, "UNFORESEEN").inc()
            logger.exception("validation.failed_unforeseen", failures=found.failures + 1)
            await self._release(entry, token, pause_after(found.failures, self.pause_seconds), is_failure=True)
        return True

    async def _validate(self, entry: Entry, token: str) -> EntryState:
        if entry.kind is EntryKind.DATASET:
            async with self.validate_dataset.checked(entry.id) as (verdict, samples):
                return await self.validations.end_dataset(entry.id, token, verdict, samples)
        return await self.validations.end_model(entry.id, token, await self.validate_model.check(entry.id))

    async def _give_up(self, found: ClaimedValidation, token: str) -> EntryState:
        """Ends a validation that failed as often as it is tried; raises LeaseLost."""
        entry = found.entry
        what = f"the check failed {found.failures} times in a row by an error of the service's own"
        remedy = (
            "validate again: what was found of clips is kept. If it fails again, tell the operator the id "
            f"{entry.id}, under which the catalog's log has the error"
        )
        if entry.kind is EntryKind.MODEL:
            return await self.validations.end_model(
                entry.id, token, ModelVerdict(None, (ModelIssue(GIVEN_UP, what, remedy),))
            )
        verdict = DatasetVerdict(DatasetFindings(errors=1), (issue.error(GIVEN_UP, what, remedy),))
        return await self.validations.end_dataset(entry.id, token, verdict, ())

    async def _release(
        self, entry: Entry, token: str, pause_seconds: float, *, is_failure: bool = False, is_stopping: bool = False
    ) -> None:
        async def release() -> None:
            pause = timedelta(seconds=pause_seconds)
            await self.validations.release(entry.id, token, pause, is_failure=is_failure)

        try:
            # A service that stops waits for nothing that is away.
            await (release() if is_stopping else give_back(release, self.is_passing))
        except Exception as error:  # the lease ends by itself, and counts as a failure
            structlog.get_logger().warning("validation.not_released", resource=entry.id, error=repr(error))
