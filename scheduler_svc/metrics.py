"""What the scheduler counts, in this process: replicas are summed. Labels are words of the contract, never ids."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from scheduler_svc.domain.job import JobState, StateReason
from scheduler_svc.domain.lifecycle import Actor
from scheduler_svc.domain.retry import TRAINER_REASONS

REGISTRY = CollectorRegistry()
"""Shown by the service as a whole."""

_WAITS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)

JOBS_SUBMITTED = Counter(
    "reeltune_scheduler_jobs_submitted_total",
    "Jobs accepted",
    ["kind", "device_class"],
    registry=REGISTRY,
)
JOB_CHANGES = Counter(
    "reeltune_scheduler_job_changes_total",
    "Changes of a job's state, and why",
    ["from_state", "to_state", "reason", "kind"],
    registry=REGISTRY,
)
QUEUE_WAIT = Histogram(
    "reeltune_scheduler_queue_wait_seconds",
    "Time from when a job could have been taken until a trainer took it",
    ["device_class"],
    buckets=_WAITS,
    registry=REGISTRY,
)
ATTEMPTS_ENDED = Counter(
    "reeltune_scheduler_attempts_ended_total",
    "Attempts that have ended: with a final state, or the reason of a failure; and who ended them",
    ["outcome", "ended_by"],
    registry=REGISTRY,
)
SWEEPS = Counter("reeltune_scheduler_sweeps_total", "Looks for leases that are over", ["outcome"], registry=REGISTRY)
LEASES_RENEWED = Counter(
    "reeltune_scheduler_leases_renewed_after_silence_total",
    "Leases that began anew because no scheduler was there to renew them",
    registry=REGISTRY,
)
WAKE_UPS = Counter(
    "reeltune_scheduler_wake_ups_published_total", "Wake-ups that the broker has taken", registry=REGISTRY
)
RELAY_FAILURES = Counter(
    "reeltune_scheduler_relay_failures_total", "Rounds of the relay that broker or database failed", registry=REGISTRY
)
ATTACHED = Gauge("reeltune_scheduler_attached_attempts", "Attempts whose trainers are attached here", registry=REGISTRY)

# Told as 0 from the start: of a counter that appears with its first event nobody sees the rise.
for _outcome in ("ok", "failed"):
    SWEEPS.labels(_outcome)
for _outcome in (*TRAINER_REASONS, JobState.COMPLETED, JobState.STOPPED):
    ATTEMPTS_ENDED.labels(_outcome, Actor.TRAINER)
for _outcome in (StateReason.LEASE_LOST, StateReason.STOP_GRACE_SPENT):
    ATTEMPTS_ENDED.labels(_outcome, Actor.SWEEPER)


def show_watches(registry: CollectorRegistry, count: Callable[[], int], limit: int) -> None:
    """Shows how many watches a replica keeps open, and how many it takes."""
    watches = Gauge("reeltune_scheduler_watches", "Watches of jobs that are open here", registry=registry)
    watches.set_function(count)
    Gauge("reeltune_scheduler_watches_limit", "How many watches this replica takes", registry=registry).set(limit)
