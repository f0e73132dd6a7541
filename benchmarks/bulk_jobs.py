"""Jobs in bulk, by SQL: a database as it is after years, in a minute."""

from __future__ import annotations

from typing import Any, Final

EVENTS_PER_JOB: Final = 3
_SECONDS: Final = 900

_JOBS: Final = """
INSERT INTO jobs (
    id, owner_id, name, model_id, dataset_id, parameters, device_class, needs_4bit, state, reason, sequence, attempt,
    worker_id, artifact_attempt, lease_expire_time, queue_time, not_before, republish_time, create_time, update_time,
    start_time, end_time
)
SELECT 'job_' || lpad(n::text, 26, '0'), CASE n % $3 WHEN 0 THEN $7 ELSE 'usr_' || n % $3 END,
    'job ' || n, 'mdl_' || n % 100, 'ds_' || n % 1000,
    '{}', 'ANY', false, state, 'UNSPECIFIED', CASE WHEN state = 'QUEUED' THEN 1 ELSE $6 END,
    CASE WHEN state = 'QUEUED' THEN 0 ELSE 1 END,
    CASE WHEN state <> 'QUEUED' THEN 'wrk_' || n % 50 END, CASE WHEN state = 'COMPLETED' THEN 1 END,
    CASE WHEN state = 'RUNNING' THEN now() + interval '1 h' END,
    created, created, now() + interval '1 h', created, created,
    CASE WHEN state <> 'QUEUED' THEN created END, CASE WHEN state IN ('COMPLETED', 'FAILED') THEN created END
FROM (
    SELECT n, now() - interval '1 s' * ($2 - n) AS created,
        CASE
            WHEN n > $2 - $4 THEN 'QUEUED' WHEN n > $2 - $4 - $5 THEN 'RUNNING'
            WHEN n % 20 = 0 THEN 'FAILED' ELSE 'COMPLETED'
        END AS state
    FROM generate_series($1::bigint, $2::bigint) AS n
) AS made
"""
_EVENTS: Final = """
INSERT INTO job_events (job_id, sequence, create_time, attempt, kind, level, body)
SELECT jobs.id, sequence.n, jobs.create_time, 1,
    CASE sequence.n WHEN 1 THEN 'state_change' WHEN 2 THEN 'log' ELSE 'metrics' END,
    CASE sequence.n WHEN 2 THEN 2 END,
    CASE sequence.n
        WHEN 1 THEN '{"from": null, "to": "QUEUED", "reason": "UNSPECIFIED", "message": ""}'::jsonb
        WHEN 2 THEN '{"text": "a line"}' ELSE '{"step": 1, "values": {"loss": 1.0}}'
    END
FROM jobs, LATERAL generate_series(1, jobs.sequence) AS sequence (n)
"""
_ATTEMPTS: Final = """
INSERT INTO attempts (job_id, attempt, worker_id, create_time, end_time, outcome, ended_by)
SELECT id, 1, worker_id, start_time, end_time, CASE WHEN end_time IS NOT NULL THEN state END,
    CASE WHEN end_time IS NOT NULL THEN 'trainer' END
FROM jobs WHERE attempt = 1
"""
_USAGE: Final = """
INSERT INTO device_usage (job_id, attempt, owner_id, recipe, device_count, start_time, end_time)
SELECT id, 1, owner_id, recipe, device_count, start_time, end_time FROM jobs WHERE attempt = 1
"""
_BUCKETS: Final = """
INSERT INTO metric_buckets (job_id, size, number, points, summaries)
SELECT id, 16, 0, 1, '{"loss": [1, 1, 1.0, 1.0, 1.0, 1, 0]}' FROM jobs WHERE attempt = 1
"""


def job_id(number: int) -> str:
    """The id of the job made as the `number`th; higher numbers are newer."""
    return f"job_{number:026d}"


async def fill(
    connection: Any, jobs: int, *, owners: int, queued: int = 0, running: int = 0, first_owner: str = "usr_0"
) -> None:
    """Adds jobs of `owners` owners with their attempts and events, the newest of them queued and running.

    The job of number n belongs to the owner `usr_{n % owners}`; `first_owner` is the name of `usr_0`.
    """
    await connection.execute("SET statement_timeout = 0")
    await connection.execute(_JOBS, 1, jobs, owners, queued, running, EVENTS_PER_JOB, first_owner, timeout=_SECONDS)
    for statement in (_ATTEMPTS, _USAGE, _EVENTS, _BUCKETS, "ANALYZE", "VACUUM jobs", "VACUUM job_events"):
        await connection.execute(statement, timeout=_SECONDS)
