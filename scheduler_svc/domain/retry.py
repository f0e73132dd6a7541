"""What becomes of a job whose attempt failed: pure policy, no clock and no dice of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from scheduler_svc.domain.job import JobState, StateReason

INFRASTRUCTURE_REASONS = frozenset({StateReason.LEASE_LOST, StateReason.STORAGE_UNAVAILABLE, StateReason.DEVICE_UNFIT})
CRASH_REASONS = frozenset({StateReason.CRASHED, StateReason.STALLED})
FREE_REASONS = frozenset({StateReason.PREEMPTED})
USER_REASONS = frozenset(
    {
        StateReason.OUT_OF_MEMORY,
        StateReason.BAD_DATA,
        StateReason.NON_FINITE_LOSS,
        StateReason.MODEL_UNSUPPORTED,
        StateReason.BAD_PARAMETERS,
        StateReason.INTERNAL,
    }
)
TRAINER_REASONS = (INFRASTRUCTURE_REASONS | CRASH_REASONS | FREE_REASONS | USER_REASONS) - {StateReason.LEASE_LOST}
"""What a trainer may give as the reason of a failure; a lost lease is for the sweeper to find."""

MAX_INFRASTRUCTURE_RETRIES = 10
MAX_CRASHES = 3
"""The third crash quarantines the job: it is tried again twice. So does the third trainer in a row that goes silent
with it for good, when the job has got no checkpoint further since the first: then the job is what kills them."""
_FIRST_DELAY = timedelta(seconds=1)
_LONGEST_DELAY = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class FailureCounts:
    """How often a job's attempts have failed, by what it costs."""

    infrastructure: int = 0
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the job."""

    target: JobState
    """QUEUED, STOPPED or FAILED."""
    reason: StateReason
    counts: FailureCounts
    delay: timedelta = timedelta(0)
    """How long a queued job is kept from the trainers."""
    advice: str = ""
    """The next step for the owner; empty where the job goes on by itself."""


def judge_failure(
    state: JobState, reason: StateReason, counts: FailureCounts, *, dice: float, silent_losses: int = 0
) -> Verdict:
    """Returns what becomes of a job in `state` (STARTING, RUNNING or STOPPING) whose attempt failed for `reason`.

    `dice`, from 0 to 1, spreads the retries of jobs that failed together over the upper half of the delay.
    `silent_losses`: how many attempts in a row, this one included, lost a trainer that was not heard of again, with no
    checkpoint saved after the first of them.

    Raises:
        ValueError: `reason` is not the reason of a failed attempt.
    """
    counted = _counted(reason, counts)
    if state is JobState.STOPPING and reason not in USER_REASONS:
        # The owner wants it to end; how the last attempt ended makes no difference any more.
        return Verdict(JobState.STOPPED, StateReason.STOP_REQUESTED, counted)
    if reason in USER_REASONS:
        return Verdict(JobState.FAILED, reason, counted, advice=_ADVICE[reason])
    if counted.crashes >= MAX_CRASHES:
        return Verdict(JobState.FAILED, StateReason.QUARANTINED, counted, advice=_ADVICE[StateReason.QUARANTINED])
    # The count ends this row where the owner had the job tried anew.
    if reason is StateReason.LEASE_LOST and min(silent_losses, counted.infrastructure) >= MAX_CRASHES:
        return Verdict(JobState.FAILED, StateReason.QUARANTINED, counted, advice=_TRAINERS_LOST)
    if counted.infrastructure > MAX_INFRASTRUCTURE_RETRIES:
        return Verdict(JobState.FAILED, StateReason.RETRIES_SPENT, counted, advice=_ADVICE[StateReason.RETRIES_SPENT])
    failures = counted.infrastructure if reason in INFRASTRUCTURE_REASONS else counted.crashes
    delay = timedelta(0) if reason in FREE_REASONS else backoff(failures, dice=dice)
    return Verdict(JobState.QUEUED, reason, counted, delay=delay)


def told(verdict: Verdict, message: str) -> str:
    """Returns what the owner is told of a failure: the trainer's message, and the advice unless it ends in one that
    knows the row better (`what is wrong; what to do`)."""
    if verdict.reason is StateReason.BAD_DATA and "; " in message:
        return message
    return ": ".join(part for part in (message, verdict.advice) if part)


def backoff(failures: int, *, dice: float) -> timedelta:
    """Returns the delay before the next try after so many failures, from 1: doubling from 1 s, at most 5 minutes."""
    doublings = min(max(failures, 1) - 1, 20)
    longest = min(_FIRST_DELAY * (1 << doublings), _LONGEST_DELAY)
    return longest * (0.5 + dice / 2)


def _counted(reason: StateReason, counts: FailureCounts) -> FailureCounts:
    if reason in INFRASTRUCTURE_REASONS:
        return replace(counts, infrastructure=counts.infrastructure + 1)
    if reason in CRASH_REASONS:
        return replace(counts, crashes=counts.crashes + 1)
    if reason in FREE_REASONS or reason in USER_REASONS:
        return counts
    raise ValueError(f"{reason} is not the reason of a failed attempt")


_TRAINERS_LOST = (
    f"{MAX_CRASHES} trainers in a row went silent with this job, which got no checkpoint further: see whether it takes "
    "more memory than they have, and have it tried again once they are well"
)
_ADVICE = {
    StateReason.OUT_OF_MEMORY: "lower batch_size, sampling.max_frames or sampling.max_pixels and submit again",
    StateReason.BAD_DATA: "mend the clip or row named above in a new dataset and submit again",
    StateReason.NON_FINITE_LOSS: "lower optimization.learning_rate or look for odd samples, and submit again",
    StateReason.MODEL_UNSUPPORTED: "choose another model, or other lora.target_groups, and submit again",
    StateReason.BAD_PARAMETERS: "change the parameter named above and submit again",
    StateReason.INTERNAL: "look into the job's log and tell the operator",
    StateReason.QUARANTINED: (
        "its training process ended without a word or hung too often; look into its log before you retry it"
    ),
    StateReason.RETRIES_SPENT: (
        "trainers or object store failed too often; tell the operator and retry it once they are well"
    ),
}
