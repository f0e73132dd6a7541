"""The validators: background tasks that take one waiting entry after another, under a lease."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from catalog_svc import metrics
from catalog_svc.domain import issue
from catalog_svc.domain.dataset import DatasetFindings
from catalog_svc.domain.dataset_check import DatasetVerdict
from catalog_svc.domain.entry import Entry, EntryKind, EntryState
from catalog_svc.domain.model import ModelIssue, ModelVerdict
from catalog_svc.domain.unforeseen import MAX_FAILURES
from catalog_svc.probe.pool import ProbePool
from catalog_svc.store.validation_store import ClaimedValidation, ValidationStore
from catalog_svc.usecases.leased_worker import LeasedWorker, Outcome
from catalog_svc.usecases.validate_dataset import ValidateDataset
from catalog_svc.usecases.validate_model import ValidateModel

GIVEN_UP = "VALIDATION_FAILED"
"""The reason of the one issue of an entry that could not be validated, though nothing is known to be wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunValidations(LeasedWorker[ClaimedValidation]):
    """Runs validations."""

    noun: ClassVar[str] = "validation"
    validations: ValidationStore
    validate_dataset: ValidateDataset
    validate_model: ValidateModel
    pool: ProbePool

    async def claim(self, token: str) -> ClaimedValidation | None:
        return await self.validations.claim(token)

    def about(self, found: ClaimedValidation) -> tuple[str, int]:
        return found.entry.id, found.failures

    async def work(self, found: ClaimedValidation, token: str) -> EntryState:
        began, noun = time.monotonic(), found.entry.kind.noun
        if found.failures < MAX_FAILURES:
            state = await self._validate(found.entry, token)
        else:
            state = await self._give_up(found, token)
        metrics.VALIDATIONS.labels(noun, state.value).inc()
        metrics.VALIDATION_SECONDS.labels(noun).observe(time.monotonic() - began)
        return state

    async def renew(self, found: ClaimedValidation, token: str) -> None:
        await self.validations.renew(found.entry.id, token)

    async def release(self, found: ClaimedValidation, token: str, pause: timedelta, *, is_failure: bool) -> None:
        await self.validations.release(found.entry.id, token, pause, is_failure=is_failure)

    async def rest(self) -> None:
        # No need to keep children.
        await self.pool.close()

    def count(self, found: ClaimedValidation, outcome: Outcome) -> None:
        metrics.VALIDATIONS.labels(found.entry.kind.noun, outcome.value).inc()

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
