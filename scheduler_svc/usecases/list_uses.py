"""Tells what a dataset or model is used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from scheduler_svc.clients.catalog import Catalog
from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.job import FINAL_STATES, Job, JobFilter, JobState
from scheduler_svc.store.job_store import JobStore

MAX_COUNT = 1000


@dataclass(frozen=True, slots=True)
class Uses:
    """Jobs of the caller, and how many live ones others have."""

    jobs: Sequence[Job]
    live_jobs_of_others: int


async def list_uses(
    entry_id: str,
    live_only: bool,
    user_id: UserId,
    token: str,
    after: tuple[datetime, str] | None,
    limit: int,
    jobs: JobStore,
    catalog: Catalog,
) -> Uses:
    """Lists a user's jobs that use an entry, newest first, from after a position on.

    Whether others use it is told to its owner only, who is found out by asking the catalog with the caller's own token.

    Raises:
        DatasetNotFound, ModelNotFound: the user may not see it.
    """
    owner_id = await catalog.get_owner(entry_id, token)
    condition = JobFilter(
        states=frozenset(JobState) - FINAL_STATES if live_only else None,
        dataset_id=entry_id if entry_id.startswith("ds_") else None,
        model_id=entry_id if entry_id.startswith("mdl_") else None,
    )
    found = await jobs.list_page(user_id, condition, after, limit)
    others = await jobs.count_foreign_uses(entry_id, user_id, MAX_COUNT) if owner_id == user_id else 0
    return Uses(found, others)
