"""The life of a job as the contract tells it, to check event logs against; nothing of the scheduler is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reeltune.scheduler.v1 import job_event_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

LEGAL = frozenset(
    {
        ("UNSPECIFIED", "QUEUED"),
        ("QUEUED", "STARTING"),
        ("QUEUED", "QUEUED"),
        ("QUEUED", "STOPPED"),
        ("STARTING", "RUNNING"),
        ("STARTING", "QUEUED"),
        ("STARTING", "STOPPING"),
        ("STARTING", "FAILED"),
        ("RUNNING", "QUEUED"),
        ("RUNNING", "STOPPING"),
        ("RUNNING", "COMPLETED"),
        ("RUNNING", "FAILED"),
        ("STOPPING", "STOPPED"),
        ("STOPPING", "FAILED"),
        ("STOPPED", "QUEUED"),
        ("FAILED", "QUEUED"),
    }
)
ASKED_FOR = {
    ("QUEUED", "QUEUED"): ("PAUSED", "RESUMED"),
    ("STOPPED", "QUEUED"): ("RETRY_REQUESTED",),
    ("FAILED", "QUEUED"): ("RETRY_REQUESTED",),
}
"""Changes that the owner asks for: illegal for any other reason, as is every other change for one of these."""
ASKED_REASONS = frozenset(reason for reasons in ASKED_FOR.values() for reason in reasons)
FINAL = frozenset({"COMPLETED", "STOPPED", "FAILED"})
WITH_A_TRAINER = frozenset({"STARTING", "RUNNING", "STOPPING"})


@dataclass(frozen=True, slots=True)
class Life:
    """A job's history, found to be a possible one."""

    states: tuple[str, ...]
    attempts: tuple[int, ...]
    """In the order in which they were claimed."""
    requeue_reasons: tuple[str, ...]
    """Why the job went back into the queue, each time."""


def check_life(events: Sequence[job_event_pb2.JobEvent]) -> Life:
    """Returns what happened to a job.

    Raises:
        AssertionError: by the contract it cannot have happened: a gap in the sequence, an illegal transition, an
            attempt that is not the one before and one, a report of an attempt that does not have the job, a paused
            job that a trainer got, or anything after the end that its owner did not ask for.
    """
    state, attempt, is_paused = "UNSPECIFIED", 0, False
    states: list[str] = []
    attempts: list[int] = []
    reasons: list[str] = []
    for number, event in enumerate(events, 1):
        assert event.sequence == number, f"event {event.sequence} is at place {number}"
        if event.WhichOneof("event") != "state_change":
            assert state not in FINAL, f"event {number} came after the job was {state}"
            assert state in WITH_A_TRAINER, f"event {number} is a report while the job is {state}"
            assert event.attempt == attempt, f"event {number} is of attempt {event.attempt}, not of {attempt}"
            continue
        change = event.state_change
        source, target = name(getattr(change, "from")), name(change.to)
        assert source == state, f"event {number} says {source} when the job was {state}"
        reason = job_pb2.StateReason.Name(change.reason).removeprefix("STATE_REASON_")
        assert (source, target) in LEGAL, f"event {number}: {source} to {target}"
        _check_reason(number, source, target, reason, is_paused=is_paused)
        is_paused = reason == "PAUSED"
        if target == "STARTING":
            attempt += 1
            attempts.append(event.attempt)
            assert event.attempt == attempt, f"event {number} begins attempt {event.attempt}, not {attempt}"
        if target == "QUEUED" and states:
            reasons.append(reason)
        state = target
        states.append(state)
    return Life(tuple(states), tuple(attempts), tuple(reasons))


def _check_reason(number: int, source: str, target: str, reason: str, *, is_paused: bool) -> None:
    asked = ASKED_FOR.get((source, target))
    fits = reason not in ASKED_REASONS if asked is None else reason in asked
    assert fits, f"event {number}: {source} to {target} because of {reason}"
    assert not (is_paused and target == "STARTING"), f"event {number}: a trainer got the job although it was paused"
    assert is_paused or reason != "RESUMED", f"event {number}: resumed and not paused"
    assert not is_paused or reason != "PAUSED", f"event {number}: paused a second time"


def name(state: job_pb2.JobState.ValueType) -> str:
    """The state in a word."""
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")
