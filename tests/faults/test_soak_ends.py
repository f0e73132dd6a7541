"""The soak's ledger tells right ends from wrong ones, for each class of end."""

from __future__ import annotations

import pytest

from tests.faults.mesh_user import rehearsal
from tests.faults.soak_ends import Orders, wrong_end
from tests.faults.test_lifecycle_model import BEGIN, life

COMPLETED = "RUNNING COMPLETED"
STOPPING = [*BEGIN, "RUNNING STOPPING STOP_REQUESTED 1"]
RETRIED = [*BEGIN, "RUNNING FAILED BAD_DATA 1", "FAILED QUEUED RETRY_REQUESTED 1"]


def attempts(*reasons: str) -> list[str]:
    """A life whose attempts ended for these reasons, the last of them in the end that is to follow."""
    lines = [BEGIN[0]]
    for number, reason in enumerate(reasons, 1):
        lines += [f"QUEUED STARTING {number}", f"STARTING RUNNING {number}", f"RUNNING QUEUED {reason} {number}"]
    number = len(reasons) + 1
    return [*lines, f"QUEUED STARTING {number}", f"STARTING RUNNING {number}"]


def judged(lines: list[str], *misbehaviors: tuple[str, int, int], **asked: list[int]) -> str | None:
    return wrong_end(Orders(rehearsal(6, 0, *misbehaviors), **asked), life(lines))


@pytest.mark.parametrize(
    ("end", "lines", "misbehaviors", "asked"),
    [
        ("an innocent job", [*BEGIN, f"{COMPLETED} 1"], [], {}),
        ("one that lost its trainers", [*attempts("LEASE_LOST", "PREEMPTED"), f"{COMPLETED} 3"], [], {}),
        ("misbehavior that is over", [*attempts("CRASHED"), f"{COMPLETED} 2"], [("CRASH", 0, 1)], {}),
        ("misbehavior after the last step", [*BEGIN, f"{COMPLETED} 1"], [("EXIT", 7, 0)], {}),
        ("misbehavior that ends nothing", [*BEGIN, f"{COMPLETED} 1"], [("IGNORE_ORDERS", 0, 0)], {}),
        ("the job's own failure", [*BEGIN, "RUNNING FAILED BAD_DATA 1"], [("BAD_DATA", 2, 0)], {}),
        ("its own failure while it stops", [*STOPPING, "STOPPING FAILED BAD_DATA 1"], [("BAD_DATA", 2, 0)], {}),
        ("a stop", [*STOPPING, "STOPPING STOPPED STOP_REQUESTED 1"], [], {"stops": [4]}),
        ("a stop that was ignored", [*STOPPING, "STOPPING STOPPED STOP_GRACE_SPENT 1"], [], {"stops": [4]}),
        ("a stop in the queue", [BEGIN[0], "QUEUED STOPPED STOP_REQUESTED 0"], [], {"stops": [2]}),
        ("a retry after a stop", [BEGIN[0], "QUEUED STOPPED STOP_REQUESTED 0", "STOPPED QUEUED RETRY_REQUESTED 0",
                                  *BEGIN[1:], f"{COMPLETED} 1"], [], {"stops": [2], "retries": [3]}),
        ("the third crash", [*attempts("CRASHED", "STALLED"), "RUNNING FAILED QUARANTINED 3"], [("CRASH", 0, 3)], {}),
        ("the third trainer", [*attempts("LEASE_LOST", "LEASE_LOST"), "RUNNING FAILED QUARANTINED 3"], [], {}),
        ("no tries left", [*attempts(*["LEASE_LOST"] * 10), "RUNNING FAILED RETRIES_SPENT 11"], [], {}),
    ],
)  # fmt: skip
def test_a_right_end_is_let_pass(end, lines, misbehaviors, asked) -> None:
    assert judged(lines, *misbehaviors, **asked) is None, end


@pytest.mark.parametrize(
    ("end", "lines", "misbehaviors", "asked"),
    [
        ("an innocent job", [*BEGIN, "RUNNING FAILED INTERNAL 1"], [], {}),
        ("an innocent job that had a lost trainer", [*attempts("LEASE_LOST"), "RUNNING FAILED INTERNAL 2"], [], {}),
        ("another's failure", [*BEGIN, "RUNNING FAILED OUT_OF_MEMORY 1"], [("BAD_DATA", 2, 0)], {}),
        ("a failure that was over", [*attempts("CRASHED"), "RUNNING FAILED BAD_DATA 2"], [("BAD_DATA", 0, 1)], {}),
        ("a model that was good", [*BEGIN, "RUNNING FAILED MODEL_UNSUPPORTED 1"], [], {}),
        ("a crash is borne twice", [*attempts("CRASHED"), "RUNNING FAILED QUARANTINED 2"], [("CRASH", 0, 3)], {}),
        ("not three in a row", [*attempts("LEASE_LOST", "PREEMPTED", "LEASE_LOST"), "RUNNING FAILED QUARANTINED 4"],
         [], {}),
        ("nine tries", [*attempts(*["LEASE_LOST"] * 9), "RUNNING FAILED RETRIES_SPENT 10"], [], {}),
        ("a retry forgets", [*attempts("CRASHED", "CRASHED"), "RUNNING FAILED QUARANTINED 3",
                             "FAILED QUEUED RETRY_REQUESTED 3", "QUEUED STARTING 4", "STARTING RUNNING 4",
                             "RUNNING FAILED QUARANTINED 4"], [], {"retries": [11]}),
        ("fatal misbehavior", [*BEGIN, f"{COMPLETED} 1"], [("HANG", 3, 0)], {}),
        ("an early end that nobody ordered", [*BEGIN, f"{COMPLETED} EARLY_STOPPED 1"], [], {}),
        ("a stop that nobody ordered", [*STOPPING, "STOPPING STOPPED STOP_REQUESTED 1"], [], {}),
        ("a stop of the time before", [*RETRIED, "QUEUED STOPPED STOP_REQUESTED 1"], [],
         {"stops": [3], "retries": [5]}),
        ("a stop that was forgotten", [*BEGIN, f"{COMPLETED} 1"], [], {"stops": [3]}),
        ("crashes while it stops", [*attempts("CRASHED", "CRASHED"), "RUNNING STOPPING STOP_REQUESTED 3",
                                    "STOPPING FAILED QUARANTINED 3"], [], {"stops": [10]}),
        ("a retry that nobody ordered", [*RETRIED, "QUEUED STARTING 2", "STARTING RUNNING 2", f"{COMPLETED} 2"],
         [], {}),
    ],
)  # fmt: skip
def test_a_wrong_end_is_found(end, lines, misbehaviors, asked) -> None:
    assert judged(lines, *misbehaviors, **asked) is not None, end


def test_what_a_checkpoint_passes_by_need_not_go_wrong() -> None:
    events = life([*BEGIN, "metrics 1", "RUNNING FAILED BAD_DATA 1", "FAILED QUEUED RETRY_REQUESTED 1",
                   "QUEUED STARTING 2", "STARTING RUNNING 2", f"{COMPLETED} 2"])  # fmt: skip
    orders = Orders(rehearsal(6, 0, ("BAD_DATA", 2, 0)), retries=[6])

    assert wrong_end(orders, events) is not None

    events[3].checkpoint.step = 2
    assert wrong_end(orders, events) is None


def test_trainers_that_were_lost_with_a_checkpoint_gained_quarantine_nothing() -> None:
    lines = [*attempts("LEASE_LOST", "LEASE_LOST"), "metrics 3", "RUNNING FAILED QUARANTINED 3"]
    events = life(lines)
    events[-2].checkpoint.step = 2

    assert wrong_end(Orders(rehearsal()), events) is not None


def test_a_wrong_end_is_told_with_the_jobs_orders_and_events() -> None:
    events = life([*BEGIN, "RUNNING FAILED INTERNAL 1"])
    events[-1].state_change.message = "a fault of the trainer"

    told = wrong_end(Orders(rehearsal(6, 0, ("SLOW_STOP", 1, 0))), events)

    assert told is not None
    assert "ended as FAILED INTERNAL, where COMPLETED would be right; ordered: 6 steps, SLOW_STOP after step 1" in told
    assert told.endswith("4 attempt 1: RUNNING to FAILED INTERNAL a fault of the trainer")
