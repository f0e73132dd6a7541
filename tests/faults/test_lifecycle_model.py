"""The model of the life cycle finds what it is there to find."""

from __future__ import annotations

import pytest
from reeltune.scheduler.v1 import job_event_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from tests.faults.lifecycle_model import check_life

BEGIN = ["UNSPECIFIED QUEUED 0", "QUEUED STARTING 1", "STARTING RUNNING 1"]
PAUSED = [BEGIN[0], "QUEUED QUEUED PAUSED 0"]
REQUEUED = [*BEGIN, "metrics 1", "RUNNING QUEUED 1", "QUEUED STARTING 2", "STARTING RUNNING 2", "metrics 2"]


def life(lines: list[str]) -> list[job_event_pb2.JobEvent]:
    """Events from `FROM TO attempt`, `FROM TO REASON attempt` and `metrics attempt`, numbered from 1."""
    events = []
    for number, line in enumerate(lines, 1):
        *words, attempt = line.split()
        event = job_event_pb2.JobEvent(sequence=number, attempt=int(attempt))
        if words == ["metrics"]:
            event.metrics.step = 1
        else:
            source, target = (job_pb2.JobState.Value(f"JOB_STATE_{word}") for word in words[:2])
            reason = job_pb2.StateReason.Value(f"STATE_REASON_{''.join(words[2:]) or 'UNSPECIFIED'}")
            change = job_event_pb2.StateChange(**{"from": source, "to": target, "reason": reason})
            event.state_change.CopyFrom(change)
        events.append(event)
    return events


def test_a_possible_life_is_told() -> None:
    found = check_life(life([*REQUEUED, "RUNNING COMPLETED 2"]))

    assert found.states[-1] == "COMPLETED"
    assert found.attempts == (1, 2)
    assert found.requeue_reasons == ("UNSPECIFIED",)


def test_what_its_owner_asks_for_is_possible() -> None:
    found = check_life(
        life(
            [
                *PAUSED,
                "QUEUED QUEUED RESUMED 0",
                *BEGIN[1:],
                "RUNNING FAILED QUARANTINED 1",
                "FAILED QUEUED RETRY_REQUESTED 1",
                "QUEUED QUEUED PAUSED 1",
                "QUEUED STOPPED STOP_REQUESTED 1",
                "STOPPED QUEUED RETRY_REQUESTED 1",
                "QUEUED STARTING 2",
                "STARTING RUNNING 2",
                "RUNNING COMPLETED 2",
            ]
        )
    )

    assert found.attempts == (1, 2)
    assert found.requeue_reasons == ("PAUSED", "RESUMED", "RETRY_REQUESTED", "PAUSED", "RETRY_REQUESTED")


@pytest.mark.parametrize(
    "lines",
    [
        ["UNSPECIFIED STARTING 1"],
        ["UNSPECIFIED QUEUED 0", "QUEUED RUNNING 1"],
        [*BEGIN, "RUNNING COMPLETED 1", "metrics 1"],
        [*BEGIN, "RUNNING COMPLETED 1", "COMPLETED QUEUED 1"],
        [*BEGIN, "STARTING RUNNING 1"],
        [*BEGIN, "metrics 2"],
        [*BEGIN, "RUNNING QUEUED 1", "metrics 1"],
        [*BEGIN, "RUNNING QUEUED 1", "QUEUED STARTING 1"],
        [*BEGIN, "RUNNING QUEUED 1", "QUEUED STARTING 3"],
        [*REQUEUED, "metrics 1"],
        [*BEGIN, "RUNNING STOPPING 1", "STOPPING COMPLETED 1"],
        [*BEGIN, "RUNNING COMPLETED 1", "COMPLETED QUEUED RETRY_REQUESTED 1"],
        [*BEGIN, "RUNNING FAILED BAD_DATA 1", "FAILED QUEUED LEASE_LOST 1"],
        [*BEGIN, "RUNNING FAILED BAD_DATA 1", "metrics 1"],
        [*BEGIN, "RUNNING QUEUED RETRY_REQUESTED 1"],
        [*BEGIN, "RUNNING QUEUED PAUSED 1"],
        [*PAUSED, "QUEUED STARTING 1"],
        [*PAUSED, "QUEUED QUEUED PAUSED 0"],
        [*PAUSED, "QUEUED QUEUED 0"],
        [BEGIN[0], "QUEUED QUEUED RESUMED 0"],
    ],
)
def test_an_impossible_life_is_refused(lines: list[str]) -> None:
    with pytest.raises(AssertionError):
        check_life(life(lines))


def test_a_gap_is_refused() -> None:
    events = life([*BEGIN, "metrics 1", "metrics 1"])
    del events[3]

    with pytest.raises(AssertionError, match="at place 4"):
        check_life(events)
