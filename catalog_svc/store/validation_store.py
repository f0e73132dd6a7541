"""Leases on validations: an entry in PROCESSING is worked on by one replica at a time, by the database's clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta

from catalog_svc.domain.dataset_check import DatasetVerdict
from catalog_svc.domain.entry import Action, Entry, EntryId, EntryKind, EntryState, next_state
from catalog_svc.domain.errors import LeaseLost
from catalog_svc.domain.model import ModelVerdict
from catalog_svc.domain.sample import SampleText
from catalog_svc.store.dataset_store import put_verdict
from catalog_svc.store.model_rows import model_facts_columns
from catalog_svc.store.queries import queries
from catalog_svc.store.rows import entry_from_row
from meshkit.failpoints import failpoint
from meshkit.postgres import Connection, Pool, transaction


@dataclass(frozen=True, slots=True)
class ClaimedValidation:
    """An entry that one validator works on."""

    entry: Entry
    failures: int
    """How often in a row, with no clip found meanwhile, its validation was cut by what nobody had foreseen."""


class ValidationStore:
    """Claims entries to validate, and ends validations; who lost the lease changes nothing."""

    def __init__(self, pool: Pool, lease: timedelta) -> None:
        self._pool = pool
        self._lease = lease

    async def claim(self, token: str) -> ClaimedValidation | None:
        """Leases the entry that has waited longest; None if nothing waits."""
        row = await self._pool.fetchrow(queries().claim_validation, token, self._lease)
        return None if row is None else ClaimedValidation(entry_from_row(row), row["validation_failures"])

    async def renew(self, entry_id: EntryId, token: str) -> None:
        """Extends the lease; raises LeaseLost."""
        if await self._pool.fetchval(queries().renew_validation, entry_id, token, self._lease) is None:
            raise LeaseLost(entry_id)

    async def release(self, entry_id: EntryId, token: str, pause: timedelta, *, is_failure: bool = False) -> None:
        """Gives the lease back; the validation is taken up again after the pause. Failures are counted."""
        await self._pool.execute(queries().release_validation, entry_id, token, pause, int(is_failure))

    async def end_dataset(
        self, dataset_id: EntryId, token: str, verdict: DatasetVerdict, samples: Iterable[SampleText]
    ) -> EntryState:
        """Ends the validation of a dataset; raises LeaseLost."""
        async with transaction(self._pool) as connection:
            await put_verdict(connection, dataset_id, verdict, samples)
            await failpoint("validation.before_end")
            # Last, and so with the entry's row locked for a moment only: writing hundreds of thousands of samples takes
            # a while, in which the lease must be renewed.
            return await _end(connection, EntryKind.DATASET, dataset_id, token, is_sound=verdict.is_sound)

    async def end_model(self, model_id: EntryId, token: str, verdict: ModelVerdict) -> EntryState:
        """Ends the validation of a model; raises LeaseLost."""
        async with transaction(self._pool) as connection:
            state = await _end(connection, EntryKind.MODEL, model_id, token, is_sound=verdict.facts is not None)
            await connection.execute(queries().reset_model_findings, model_id)
            forward = (verdict.forward.state, verdict.forward.message)
            if verdict.facts is not None:
                columns = (*model_facts_columns(verdict.facts), *forward)
                await connection.execute(queries().insert_model_facts, model_id, *columns)
            else:
                issues = [asdict(found) for found in verdict.issues]
                await connection.execute(queries().insert_model_issues, model_id, issues, *forward)
        return state


async def _end(connection: Connection, kind: EntryKind, entry_id: EntryId, token: str, *, is_sound: bool) -> EntryState:
    state = next_state(kind, EntryState.PROCESSING, Action.PASS if is_sound else Action.FAIL)
    if await connection.fetchval(queries().end_validation, entry_id, token, state) is None:
        raise LeaseLost(entry_id)
    return state
