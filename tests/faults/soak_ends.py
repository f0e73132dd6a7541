"""Which ends of a job are right, by what its recipe was told to do wrong, what its owner asked and how often it failed.

The rules are those of docs/job-lifecycle.md ("What a failure costs"), counted anew from the job's events; nothing of
the scheduler is used. A fault of the mesh never makes a job FAILED, unless all of its tries were used up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from reeltune.scheduler.v1 import job_event_pb2, rehearsal_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2

from tests.faults.lifecycle_model import name

STOPPED = frozenset({"STOPPED STOP_REQUESTED", "STOPPED STOP_GRACE_SPENT"})
_OWN = frozenset({"OUT_OF_MEMORY", "NON_FINITE_LOSS", "BAD_DATA"})
"""Misbehaviors that are the job's own failure, called like its reason."""
_FATAL = _OWN | {"CRASH", "EXIT", "HANG", "SPIN", "KILL_WORKER", "NONSENSE"}
"""Misbehaviors after which an attempt makes no further step."""
_CRASHES = frozenset({"CRASHED", "STALLED"})
_INFRASTRUCTURE = frozenset({"LEASE_LOST", "STORAGE_UNAVAILABLE", "DEVICE_UNFIT"})
_CRASHES_BORNE = 2
_LOSSES_BORNE = 2
_INFRASTRUCTURE_BORNE = 10


@dataclass
class Orders:
    """What a job was told to do."""

    parameters: parameters_pb2.TrainingParameters
    stops: list[int] = field(default_factory=list)
    """The sequence of the job in each answer to a stop."""
    retries: list[int] = field(default_factory=list)
    """The same of retries."""


def wrong_end(orders: Orders, events: Sequence[job_event_pb2.JobEvent]) -> str | None:
    """What is wrong with the end of a job that has ended, in words and with its events; None if it is right."""
    ended = _end(events[-1])
    right = right_ends(orders, events)
    if ended in right:
        return None
    kinds = [f"{_kind(each)} after step {each.at_step}" for each in orders.parameters.rehearsal.misbehaviors]
    told = (
        f"ended as {ended}, where {' or '.join(sorted(right)) or 'nothing'} would be right; ordered: "
        f"{orders.parameters.optimization.max_steps} steps, {', '.join(kinds) or 'no misbehavior'}, "
        f"stops at {orders.stops}, retries at {orders.retries}; its events:"
    )
    return "\n    ".join([told, *_lines(events)])


def right_ends(orders: Orders, events: Sequence[job_event_pb2.JobEvent]) -> frozenset[str]:
    """The ends, as `STATE` or `STATE REASON`, of which the last event must tell one."""
    since_retry = _since_retry(events)
    begins = since_retry[0].sequence
    if begins > 1 and not any(sequence >= begins for sequence in orders.retries):
        return frozenset()  # it was tried again, and nobody asked for that
    attempt = since_retry[-1].attempt
    kinds = {_kind(each) for each in _due(orders.parameters, attempt)}
    own = frozenset(f"FAILED {kind}" for kind in kinds & _OWN)
    if any(sequence >= begins for sequence in orders.stops):
        return STOPPED | own
    return own | _spent(since_retry) | _completed(orders.parameters, events, attempt)


def _completed(
    parameters: parameters_pb2.TrainingParameters, events: Sequence[job_event_pb2.JobEvent], attempt: int
) -> frozenset[str]:
    """An attempt completes if nothing fatal lay in its way: what is behind its first step does not."""
    stored = [event.checkpoint.step for event in events if event.HasField("checkpoint") and event.attempt < attempt]
    # The attempt may have gone on from any of them: what none of them passes by was in its way for sure.
    farthest = max(stored, default=0)
    is_stuck = any(
        _kind(each) in _FATAL and (not each.at_step or each.at_step > farthest) for each in _due(parameters, attempt)
    )
    return frozenset() if is_stuck else frozenset({"COMPLETED"})


def _spent(since_retry: Sequence[job_event_pb2.JobEvent]) -> frozenset[str]:
    """The ends of a job that has failed as often as is borne, its last failure not counted."""
    reasons = [
        _reason(event)
        for event in since_retry
        if event.state_change.to == job_pb2.JOB_STATE_QUEUED
        and getattr(event.state_change, "from") in (job_pb2.JOB_STATE_STARTING, job_pb2.JOB_STATE_RUNNING)
    ]
    ends = set()
    if sum(reason in _CRASHES for reason in reasons) >= _CRASHES_BORNE:
        ends.add("FAILED QUARANTINED")
    latest = since_retry[-1].attempt - 1
    gained = any(event.HasField("checkpoint") and event.attempt >= latest for event in since_retry)
    if reasons[-_LOSSES_BORNE:] == ["LEASE_LOST"] * _LOSSES_BORNE and not gained:
        ends.add("FAILED QUARANTINED")
    if sum(reason in _INFRASTRUCTURE for reason in reasons) >= _INFRASTRUCTURE_BORNE:
        ends.add("FAILED RETRIES_SPENT")
    return frozenset(ends)


def _due(parameters: parameters_pb2.TrainingParameters, attempt: int) -> Iterator[rehearsal_pb2.Misbehavior]:
    """What goes wrong in the attempt, if it makes all steps."""
    for each in parameters.rehearsal.misbehaviors:
        if each.at_step <= parameters.optimization.max_steps and (not each.attempts or attempt <= each.attempts):
            yield each


def _since_retry(events: Sequence[job_event_pb2.JobEvent]) -> Sequence[job_event_pb2.JobEvent]:
    asked = [number for number, event in enumerate(events) if _reason(event) == "RETRY_REQUESTED"]
    return events[asked[-1] if asked else 0 :]


def _end(event: job_event_pb2.JobEvent) -> str:
    state, reason = name(event.state_change.to), _reason(event)
    return state if reason == "UNSPECIFIED" else f"{state} {reason}"


def _reason(event: job_event_pb2.JobEvent) -> str:
    return job_pb2.StateReason.Name(event.state_change.reason).removeprefix("STATE_REASON_")


def _kind(each: rehearsal_pb2.Misbehavior) -> str:
    return rehearsal_pb2.MisbehaviorKind.Name(each.kind).removeprefix("MISBEHAVIOR_KIND_")


def _lines(events: Sequence[job_event_pb2.JobEvent]) -> Iterator[str]:
    """Events in a line each; of progress and metrics there is too much."""
    for event in events:
        place = f"{event.sequence:>4} attempt {event.attempt}"
        if event.HasField("state_change"):
            change = event.state_change
            yield f"{place}: {name(getattr(change, 'from'))} to {_end(event)} {change.message}".rstrip()
        elif event.HasField("checkpoint"):
            yield f"{place}: checkpoint of step {event.checkpoint.step}"
        elif event.HasField("log"):
            yield f"{place}: {event.log.text}"
