"""The life cycle of a training job: one table, and the one function that reads it.

Every change of a job's state, whoever asks for it, is first allowed here and then made by one compare-and-set in SQL.
`docs/job-lifecycle.md`, the contract's enums and the database's constraints are compared with this table by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from scheduler_svc.domain.errors import IllegalTransition
from scheduler_svc.domain.job import ACTIVE_STATES, JobState, StateReason
from scheduler_svc.domain.retry import TRAINER_REASONS, USER_REASONS


class Actor(StrEnum):
    """Who changes a job."""

    USER = "user"
    TRAINER = "trainer"
    SWEEPER = "sweeper"


class Guard(StrEnum):
    """What must hold for a change, in the words of the documentation."""

    REQUEST_ID_NEW = "`request_id` unused by this user"
    DUE = "its backoff is over"
    GENERATION_MATCHES = "generation matches"
    NOT_PAUSED = "not paused"
    PAUSED = "paused"
    ATTEMPT_MATCHES = "attempt matches"
    LEASE_EXPIRED = "lease expired"
    TRIES_LEFT = "tries left"
    NO_TRIES_LEFT = "no tries left, or the failure is the job's own"
    FILES_VERIFIED = "artifact files verified"
    GRACE_SPENT = "stop grace spent, or lease expired"


class Effect(StrEnum):
    """What else changes in the same transaction, in the words of the documentation."""

    NEXT_GENERATION = "generation + 1"
    OUTBOX = "outbox"
    PAUSE = "`is_paused` set"
    END_PAUSE = "`is_paused` cleared"
    FORGET_FAILURES = "failures forgotten"
    CLEAR_END_TIME = "`end_time` cleared"
    NEXT_ATTEMPT = "attempt + 1"
    TAKE_LEASE = "lease"
    DROP_LEASE = "lease ends"
    START_TIME = "`start_time` once"
    STOP_DEADLINE = "stop order with its grace"
    ARTIFACT = "artifact pointer"
    ARTIFACT_IF_ANY = "artifact pointer if there is one"
    END_TIME = "`end_time`"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of a job, read under its row lock, at the moment of a change."""

    state: JobState | None = None
    """None for a job that is not there yet."""
    request_id_new: bool = False
    due: bool = False
    generation_matches: bool = False
    paused: bool = False
    attempt_matches: bool = False
    lease_expired: bool = False
    tries_left: bool = False
    files_verified: bool = False
    grace_spent: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    sources: tuple[JobState | None, ...]
    target: JobState
    actor: Actor
    reasons: frozenset[StateReason]
    guards: tuple[Guard, ...]
    effects: tuple[Effect, ...]


_ORDINARY = frozenset({StateReason.UNSPECIFIED})
_COMPLETE = _ORDINARY | {StateReason.EARLY_STOPPED}
_STOP = frozenset({StateReason.STOP_REQUESTED})
_STARTING, _RUNNING, _STOPPING = JobState.STARTING, JobState.RUNNING, JobState.STOPPING

RULES: tuple[Rule, ...] = (
    Rule(
        (None,),
        JobState.QUEUED,
        Actor.USER,
        _ORDINARY,
        (Guard.REQUEST_ID_NEW,),
        (Effect.NEXT_GENERATION, Effect.OUTBOX),
    ),
    Rule(
        (JobState.QUEUED,),
        _STARTING,
        Actor.TRAINER,
        _ORDINARY,
        (Guard.GENERATION_MATCHES, Guard.DUE, Guard.NOT_PAUSED),
        (Effect.NEXT_ATTEMPT, Effect.TAKE_LEASE),
    ),
    Rule((_STARTING,), _RUNNING, Actor.TRAINER, _ORDINARY, (Guard.ATTEMPT_MATCHES,), (Effect.START_TIME,)),
    Rule(
        (_STARTING, _RUNNING),
        JobState.QUEUED,
        Actor.TRAINER,
        frozenset(TRAINER_REASONS - USER_REASONS),
        (Guard.ATTEMPT_MATCHES, Guard.TRIES_LEFT),
        (Effect.NEXT_GENERATION, Effect.OUTBOX, Effect.DROP_LEASE),
    ),
    Rule(
        (_STARTING, _RUNNING),
        JobState.QUEUED,
        Actor.SWEEPER,
        frozenset({StateReason.LEASE_LOST}),
        (Guard.LEASE_EXPIRED, Guard.TRIES_LEFT),
        (Effect.NEXT_GENERATION, Effect.OUTBOX, Effect.DROP_LEASE),
    ),
    Rule(
        (JobState.QUEUED,),
        JobState.QUEUED,
        Actor.USER,
        frozenset({StateReason.PAUSED}),
        (Guard.NOT_PAUSED,),
        (Effect.PAUSE,),
    ),
    Rule(
        (JobState.QUEUED,),
        JobState.QUEUED,
        Actor.USER,
        frozenset({StateReason.RESUMED}),
        (Guard.PAUSED,),
        (Effect.END_PAUSE, Effect.NEXT_GENERATION, Effect.OUTBOX),
    ),
    Rule((JobState.QUEUED,), JobState.STOPPED, Actor.USER, _STOP, (), (Effect.END_PAUSE, Effect.END_TIME)),
    Rule((_STARTING, _RUNNING), _STOPPING, Actor.USER, _STOP, (), (Effect.STOP_DEADLINE,)),
    Rule(
        (_RUNNING,),
        JobState.COMPLETED,
        Actor.TRAINER,
        _COMPLETE,
        (Guard.ATTEMPT_MATCHES, Guard.FILES_VERIFIED),
        (Effect.ARTIFACT, Effect.DROP_LEASE, Effect.END_TIME),
    ),
    Rule(
        (_STOPPING,),
        JobState.STOPPED,
        Actor.TRAINER,
        _STOP,
        (Guard.ATTEMPT_MATCHES,),
        (Effect.ARTIFACT_IF_ANY, Effect.DROP_LEASE, Effect.END_TIME),
    ),
    Rule(
        (_STOPPING,),
        JobState.STOPPED,
        Actor.SWEEPER,
        frozenset({StateReason.STOP_GRACE_SPENT}),
        (Guard.GRACE_SPENT,),
        (Effect.DROP_LEASE, Effect.END_TIME),
    ),
    Rule(
        (_STARTING, _RUNNING, _STOPPING),
        JobState.FAILED,
        Actor.TRAINER,
        USER_REASONS | {StateReason.QUARANTINED, StateReason.RETRIES_SPENT},
        (Guard.ATTEMPT_MATCHES, Guard.NO_TRIES_LEFT),
        (Effect.DROP_LEASE, Effect.END_TIME),
    ),
    Rule(
        (_STARTING, _RUNNING),
        JobState.FAILED,
        Actor.SWEEPER,
        frozenset({StateReason.QUARANTINED, StateReason.RETRIES_SPENT}),
        (Guard.LEASE_EXPIRED, Guard.NO_TRIES_LEFT),
        (Effect.DROP_LEASE, Effect.END_TIME),
    ),
    Rule(
        (JobState.STOPPED, JobState.FAILED),
        JobState.QUEUED,
        Actor.USER,
        frozenset({StateReason.RETRY_REQUESTED}),
        (),
        (Effect.FORGET_FAILURES, Effect.CLEAR_END_TIME, Effect.NEXT_GENERATION, Effect.OUTBOX),
    ),
)

DELETABLE_STATES = frozenset(JobState) - ACTIVE_STATES
"""Deleting is no change of state: a job that no trainer has can be removed altogether."""

LEGAL_PAIRS = frozenset((source, rule.target) for rule in RULES for source in rule.sources)
"""Every change that somebody can make, as (from, to)."""

LEGAL_CHANGES = frozenset(
    (source, rule.target, reason) for rule in RULES for source in rule.sources for reason in rule.reasons
)
"""Every change that somebody can make, as (from, to, why)."""

_HOLDS: Mapping[Guard, Callable[[Facts], bool]] = {
    Guard.REQUEST_ID_NEW: lambda facts: facts.request_id_new,
    Guard.DUE: lambda facts: facts.due,
    Guard.GENERATION_MATCHES: lambda facts: facts.generation_matches,
    Guard.NOT_PAUSED: lambda facts: not facts.paused,
    Guard.PAUSED: lambda facts: facts.paused,
    Guard.ATTEMPT_MATCHES: lambda facts: facts.attempt_matches,
    Guard.LEASE_EXPIRED: lambda facts: facts.lease_expired,
    Guard.TRIES_LEFT: lambda facts: facts.tries_left,
    Guard.NO_TRIES_LEFT: lambda facts: not facts.tries_left,
    Guard.FILES_VERIFIED: lambda facts: facts.files_verified,
    Guard.GRACE_SPENT: lambda facts: facts.grace_spent or facts.lease_expired,
}


def transition(facts: Facts, target: JobState, actor: Actor, reason: StateReason) -> Rule:
    """Returns the rule by which `actor` may move the job to `target` for `reason`.

    Raises:
        IllegalTransition: there is none, or one of its guards does not hold.
    """
    for rule in RULES:
        if rule.target is target and rule.actor is actor and facts.state in rule.sources and reason in rule.reasons:
            failed = [guard.value for guard in rule.guards if not _HOLDS[guard](facts)]
            if failed:
                raise _illegal(facts, target, actor, failed)
            return rule
    raise _illegal(facts, target, actor, [])


def sources_of(target: JobState, actor: Actor) -> tuple[JobState, ...]:
    """Returns the states from which `actor` can move a job to `target`."""
    found = {source for rule in RULES if rule.target is target and rule.actor is actor for source in rule.sources}
    return tuple(state for state in JobState if state in found)


def stop_target(state: JobState) -> JobState:
    """Returns where a user's stop moves a job: STOPPED from the queue, STOPPING from a trainer; STOPPING stays.

    Raises:
        IllegalTransition: the job is final.
    """
    if state is JobState.STOPPING:
        return state
    for target in (JobState.STOPPED, JobState.STOPPING):
        if state in sources_of(target, Actor.USER):
            return target
    raise IllegalTransition(state, "be stopped", [JobState.QUEUED, *(s for s in JobState if s in ACTIVE_STATES)])


def check_pausable(state: JobState, *, action: str) -> None:
    """Raises IllegalTransition, saying what cannot be done, for a job that does not wait in the queue."""
    if state is not JobState.QUEUED:
        raise IllegalTransition(state, action, [JobState.QUEUED])


def check_retriable(state: JobState) -> None:
    """Raises IllegalTransition for a job that is not at an end that its owner may want to try again from."""
    allowed = [source for rule in RULES if StateReason.RETRY_REQUESTED in rule.reasons for source in rule.sources]
    if state not in allowed:
        raise IllegalTransition(state, "be retried", [source for source in allowed if source is not None])


def check_deletable(state: JobState) -> None:
    """Raises IllegalTransition for a job that a trainer has."""
    if state not in DELETABLE_STATES:
        raise IllegalTransition(state, "be deleted", [s for s in JobState if s in DELETABLE_STATES])


def _illegal(facts: Facts, target: JobState, actor: Actor, failed_guards: list[str]) -> IllegalTransition:
    because = f" (needed: {', '.join(failed_guards)})" if failed_guards else ""
    state = facts.state or "not there yet"
    return IllegalTransition(state, f"become {target} by the {actor}{because}", sources_of(target, actor))
