"""The life cycle: its table, held against everything that repeats it, and against random histories."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reeltune.scheduler.v1 import training_job_pb2

from scheduler_svc.domain.errors import IllegalTransition
from scheduler_svc.domain.job import ACTIVE_STATES, FINAL_STATES, JobState, StateReason
from scheduler_svc.domain.lifecycle import (
    LEGAL_PAIRS,
    RULES,
    Actor,
    Facts,
    check_deletable,
    check_pausable,
    check_retriable,
    stop_target,
    transition,
)
from scheduler_svc.domain.lifecycle_text import markdown_table, mermaid_diagram

ROOT = Path(__file__).parents[3]
MIGRATIONS = [path.read_text() for path in sorted((ROOT / "scheduler_svc/sql/migrations").glob("*.sql"))]
ALL_TRUE = {name: True for name in Facts.__dataclass_fields__ if name != "state"}

# Written down a second time, from the contract's own words, so that the table cannot drift on its own.
EXPECTED_PAIRS = {
    (None, "QUEUED"),
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
# What each of these asks for is its owner's alone, and each happens to nothing else.
OWNERS_REASONS = {
    ("QUEUED", "QUEUED"): {"PAUSED", "RESUMED"},
    ("STOPPED", "QUEUED"): {"RETRY_REQUESTED"},
    ("FAILED", "QUEUED"): {"RETRY_REQUESTED"},
}

states = st.sampled_from([None, *JobState])
flags = st.booleans()
all_facts = st.builds(
    Facts,
    state=states,
    request_id_new=flags,
    due=flags,
    generation_matches=flags,
    paused=flags,
    attempt_matches=flags,
    lease_expired=flags,
    tries_left=flags,
    files_verified=flags,
    grace_spent=flags,
)


def test_the_table_allows_the_expected_changes_and_no_other() -> None:
    assert LEGAL_PAIRS == EXPECTED_PAIRS


def test_states_and_reasons_are_those_of_the_contract() -> None:
    contract_states = {name.removeprefix("JOB_STATE_") for name in training_job_pb2.JobState.DESCRIPTOR.values_by_name}
    contract_reasons = {
        name.removeprefix("STATE_REASON_") for name in training_job_pb2.StateReason.DESCRIPTOR.values_by_name
    }
    assert set(JobState) == contract_states - {"UNSPECIFIED"}
    assert set(StateReason) == contract_reasons


def test_states_reasons_and_changes_are_those_of_the_database() -> None:
    assert _names(_newest(r"jobs_state_known CHECK \((.*?)\n +\)")) == set(JobState)
    assert _names(_newest(r"jobs_reason_known CHECK \((.*?)\n +\)")) == set(StateReason)
    pairs = set(re.findall(r"\('([A-Z]+)', '([A-Z]+)'\)", _newest(r"NOT IN \((.*?)\n    \) THEN")[1]))
    assert pairs == {pair for pair in LEGAL_PAIRS if pair[0] is not None}


def test_the_document_shows_the_table_and_the_diagram() -> None:
    text = (ROOT / "docs/job-lifecycle.md").read_text()
    hint = "run python tools/write_lifecycle.py"
    assert markdown_table() in text, hint
    assert mermaid_diagram() in text, hint


def test_the_document_tells_of_changes_that_may_but_need_not_have_a_reason() -> None:
    assert "| RUNNING | COMPLETED | trainer | –, `EARLY_STOPPED` |" in markdown_table()


def test_every_reason_is_given_by_some_rule() -> None:
    assert {reason for rule in RULES for reason in rule.reasons} == set(StateReason)


def test_owners_reasons_belong_to_their_changes_and_to_no_other() -> None:
    for rule in RULES:
        for source in rule.sources:
            own = OWNERS_REASONS.get((source, rule.target), set())
            assert bool(own) == bool(rule.reasons & {"PAUSED", "RESUMED", "RETRY_REQUESTED"})
            assert not own or (rule.reasons <= own and rule.actor is Actor.USER)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.target}-by-{rule.actor}")
def test_each_guard_of_each_rule_is_needed(rule) -> None:  # type: ignore[no-untyped-def]
    for source, reason in itertools.product(rule.sources, rule.reasons):
        good = _facts_for(rule, source)
        assert transition(good, rule.target, rule.actor, reason) is rule
        for guard in rule.guards:
            with pytest.raises(IllegalTransition):
                transition(_without(good, guard.name), rule.target, rule.actor, reason)


@given(
    facts=all_facts, target=st.sampled_from(JobState), actor=st.sampled_from(Actor), reason=st.sampled_from(StateReason)
)
def test_whatever_is_asked_only_legal_changes_are_allowed(
    facts: Facts, target: JobState, actor: Actor, reason: StateReason
) -> None:
    try:
        rule = transition(facts, target, actor, reason)
    except IllegalTransition:
        return
    assert (facts.state, target) in EXPECTED_PAIRS
    if facts.state in FINAL_STATES:
        assert (target, actor, reason) == ("QUEUED", "user", "RETRY_REQUESTED")
    if target is JobState.STARTING:
        assert not facts.paused
    assert (rule.target, rule.actor) == (target, actor)
    if actor is Actor.TRAINER and facts.state is not JobState.QUEUED:
        assert facts.attempt_matches
    if target is JobState.COMPLETED:
        assert facts.state is JobState.RUNNING
        assert facts.files_verified


@given(
    moves=st.lists(
        st.tuples(st.sampled_from(JobState), st.sampled_from(Actor), st.sampled_from(StateReason)), max_size=60
    )
)
def test_no_history_leaves_a_final_state_by_itself_or_completes_after_a_stop(
    moves: list[tuple[JobState, Actor, StateReason]],
) -> None:
    state: JobState | None = None
    is_paused = is_stopped = False
    for target, actor, reason in moves:
        for tries_left in (True, False):
            facts = Facts(state=state, **{**ALL_TRUE, "paused": is_paused, "tries_left": tries_left})
            try:
                transition(facts, target, actor, reason)
            except IllegalTransition:
                continue
            is_retry = reason is StateReason.RETRY_REQUESTED
            assert (state in FINAL_STATES) == is_retry
            assert not (is_stopped and target in (JobState.COMPLETED, JobState.QUEUED)) or is_retry
            assert not (is_paused and target not in (JobState.QUEUED, JobState.STOPPED))
            is_stopped = target in (JobState.STOPPING, JobState.STOPPED)
            is_paused = reason is StateReason.PAUSED
            state = target
            break


@pytest.mark.parametrize("state", JobState)
def test_a_stop_moves_every_job_that_is_not_final(state: JobState) -> None:
    if state in FINAL_STATES:
        with pytest.raises(IllegalTransition):
            stop_target(state)
    else:
        expected = {JobState.QUEUED: JobState.STOPPED}.get(state, JobState.STOPPING)
        assert stop_target(state) is expected


@pytest.mark.parametrize("state", JobState)
def test_only_queued_jobs_can_be_paused_and_only_ended_ones_retried(state: JobState) -> None:
    for check, allowed in (
        (lambda state: check_pausable(state, action="be paused"), [JobState.QUEUED]),
        (check_retriable, [JobState.STOPPED, JobState.FAILED]),
    ):
        if state in allowed:
            check(state)
            continue
        with pytest.raises(IllegalTransition) as refused:
            check(state)
        assert (refused.value.state, list(refused.value.allowed)) == (state, allowed)


@pytest.mark.parametrize("state", JobState)
def test_only_jobs_without_a_trainer_can_be_deleted(state: JobState) -> None:
    if state in ACTIVE_STATES:
        with pytest.raises(IllegalTransition):
            check_deletable(state)
    else:
        check_deletable(state)


_NEGATIVE = {"NO_TRIES_LEFT": "tries_left", "NOT_PAUSED": "paused"}
"""Guards that hold when a fact does not."""


def _facts_for(rule, source: JobState | None) -> Facts:  # type: ignore[no-untyped-def]
    flags = dict.fromkeys(ALL_TRUE, False)
    for guard in rule.guards:
        if guard.name not in _NEGATIVE:
            flags[guard.name.lower()] = True
    return Facts(state=source, **flags)


def _without(facts: Facts, guard: str) -> Facts:
    values = {name: getattr(facts, name) for name in Facts.__dataclass_fields__}
    values[_NEGATIVE.get(guard, guard.lower())] = guard in _NEGATIVE
    return Facts(**values)


def _newest(pattern: str) -> re.Match[str]:
    """The last definition that the migrations give: the one in force."""
    found = [match for text in MIGRATIONS if (match := re.search(pattern, text, re.DOTALL))]
    return found[-1]


def _names(match: re.Match[str]) -> set[str]:
    return set(re.findall(r"'([A-Z_]+)'", match[1]))
