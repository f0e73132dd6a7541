"""The kinds of identifier that the scheduler handles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

JobId = NewType("JobId", str)
UserId = NewType("UserId", str)
WorkerId = NewType("WorkerId", str)


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """One launch of one job: what every write of a trainer carries."""

    job_id: JobId
    attempt: int
