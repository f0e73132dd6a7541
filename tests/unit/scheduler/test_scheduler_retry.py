"""The retry policy."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.domain.job import ACTIVE_STATES, JobState, StateReason
from scheduler_svc.domain.lifecycle import Actor, Facts, transition
from scheduler_svc.domain.retry import (
    CRASH_REASONS,
    INFRASTRUCTURE_REASONS,
    TRAINER_REASONS,
    USER_REASONS,
    FailureCounts,
    backoff,
    judge_failure,
    told,
)
from trainer_svc.domain.attempt import FailReason

RUNNING = JobState.RUNNING


def _fail_until_final(reason: StateReason) -> tuple[int, StateReason]:
    """Returns how often the job was launched until it failed for good, and why."""
    counts, launches = FailureCounts(), 1
    while True:
        verdict = judge_failure(RUNNING, reason, counts, dice=0.5)
        if verdict.target is JobState.FAILED:
            return launches, verdict.reason
        counts, launches = verdict.counts, launches + 1


def test_a_trainer_gives_the_reasons_that_are_taken_from_it_and_no_other() -> None:
    assert {str(reason) for reason in FailReason} == {str(reason) for reason in TRAINER_REASONS}


@pytest.mark.parametrize("reason", sorted(INFRASTRUCTURE_REASONS))
def test_infrastructure_is_tried_again_ten_times(reason: StateReason) -> None:
    assert _fail_until_final(reason) == (11, StateReason.RETRIES_SPENT)


@pytest.mark.parametrize("reason", sorted(CRASH_REASONS))
def test_the_third_crash_quarantines(reason: StateReason) -> None:
    assert _fail_until_final(reason) == (3, StateReason.QUARANTINED)


@pytest.mark.parametrize("reason", sorted(USER_REASONS))
def test_the_jobs_own_failures_are_final_and_say_what_to_do(reason: StateReason) -> None:
    for state in ACTIVE_STATES:
        verdict = judge_failure(state, reason, FailureCounts(), dice=0)
        assert (verdict.target, verdict.reason) == (JobState.FAILED, reason)
        assert verdict.advice


def test_bad_data_is_told_with_one_next_step() -> None:
    verdict = judge_failure(RUNNING, StateReason.BAD_DATA, FailureCounts(), dice=0)
    assert told(verdict, "row 3: no clip; remove the row") == "row 3: no clip; remove the row"
    assert told(verdict, "row 3: no clip") == f"row 3: no clip: {verdict.advice}"


def test_three_trainers_gone_for_good_in_a_row_quarantine() -> None:
    counts = FailureCounts(infrastructure=7)
    lost = [judge_failure(RUNNING, StateReason.LEASE_LOST, counts, dice=0, silent_losses=n) for n in (1, 2, 3, 4)]
    assert [verdict.target for verdict in lost] == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED, JobState.FAILED]
    assert lost[2].reason is StateReason.QUARANTINED
    assert "memory" in lost[2].advice


def test_a_row_of_lost_trainers_begins_anew_with_the_counts() -> None:
    """An owner's retry sets the counts to nothing; the attempts before it are history."""
    verdict = judge_failure(RUNNING, StateReason.LEASE_LOST, FailureCounts(), dice=0, silent_losses=4)
    assert verdict.target is JobState.QUEUED


def test_trainers_lost_while_stopping_end_the_job_as_asked() -> None:
    counts = FailureCounts(infrastructure=5)
    verdict = judge_failure(JobState.STOPPING, StateReason.LEASE_LOST, counts, dice=0, silent_losses=5)
    assert verdict.target is JobState.STOPPED


def test_a_drain_costs_nothing() -> None:
    counts = FailureCounts(infrastructure=10, crashes=2)
    verdict = judge_failure(RUNNING, StateReason.PREEMPTED, counts, dice=1)
    assert (verdict.target, verdict.counts, verdict.delay) == (JobState.QUEUED, counts, timedelta(0))


def test_crashes_and_infrastructure_are_counted_apart() -> None:
    verdict = judge_failure(RUNNING, StateReason.CRASHED, FailureCounts(infrastructure=10), dice=0)
    assert verdict.target is JobState.QUEUED


@pytest.mark.parametrize("reason", sorted(TRAINER_REASONS - USER_REASONS))
def test_a_job_that_stops_is_stopped_however_its_attempt_ends(reason: StateReason) -> None:
    verdict = judge_failure(JobState.STOPPING, reason, FailureCounts(infrastructure=99, crashes=99), dice=0)
    assert (verdict.target, verdict.reason) == (JobState.STOPPED, StateReason.STOP_REQUESTED)


@pytest.mark.parametrize("reason", sorted(set(StateReason) - TRAINER_REASONS - {StateReason.LEASE_LOST}))
def test_what_is_no_failure_is_refused(reason: StateReason) -> None:
    with pytest.raises(ValueError, match=reason):
        judge_failure(RUNNING, reason, FailureCounts(), dice=0)


@given(failures=st.integers(1, 10_000), dice=st.floats(0, 1))
def test_pauses_grow_and_stay_bounded(failures: int, dice: float) -> None:
    pause = backoff(failures, dice=dice)
    assert timedelta(milliseconds=500) <= pause <= timedelta(minutes=5)
    assert backoff(failures + 1, dice=dice) >= pause


@given(
    state=st.sampled_from(sorted(ACTIVE_STATES)),
    reason=st.sampled_from(sorted(TRAINER_REASONS)),
    counts=st.builds(FailureCounts, st.integers(0, 20), st.integers(0, 20)),
)
def test_every_verdict_is_a_legal_change(state: JobState, reason: StateReason, counts: FailureCounts) -> None:
    verdict = judge_failure(state, reason, counts, dice=0.3)
    facts = Facts(state=state, attempt_matches=True, tries_left=verdict.target is JobState.QUEUED)
    assert transition(facts, verdict.target, Actor.TRAINER, verdict.reason).target is verdict.target
