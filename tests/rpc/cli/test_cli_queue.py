"""What the command line says of the queue, and what admins do with quotas and trainers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from reeltune.scheduler.v1 import job_event_pb2, queue_status_pb2, quota_service_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from meshkit.auth.principal import Caller
from meshkit.testing import TokenMint
from reeltune_cli.client import Credentials, FileCredentials
from tests.rpc.cli.conftest import Run
from tests.rpc.cli.failing_mesh import JOB_ID, WORKER_ID, FailingMesh

WAITS = queue_status_pb2.QueueStatus(
    position=3, reason=queue_status_pb2.WAIT_REASON_TRAINERS_BUSY, message="2 jobs go before it"
)


@pytest.fixture
def endpoint(failing_mesh: FailingMesh, token_mint: TokenMint, home: Path) -> str:
    """The failing mesh, with somebody signed in there."""
    token = token_mint.token(Caller.USER, "usr_1", roles=("user", "admin"))
    address = failing_mesh.served.address
    FileCredentials(home, address).save(Credentials("ada", token, time.time() + 240, "", 0))
    return f"http://{address}"


def became(state: job_pb2.JobState, sequence: int = 1) -> job_event_pb2.JobEvent:
    return job_event_pb2.JobEvent(sequence=sequence, state_change=job_event_pb2.StateChange(to=state))


async def test_a_waiting_job_shows_its_place_and_why_it_waits(
    failing_mesh: FailingMesh, endpoint: str, run: Run
) -> None:
    failing_mesh.events, failing_mesh.queue = [became(job_pb2.JOB_STATE_QUEUED)], WAITS
    done = await run("train", "show", JOB_ID, endpoint=endpoint)
    assert done.exit_code == 0, done.stderr
    for word in ("3, trainers busy", "2 jobs go before it"):
        assert word in done.stdout
    assert "starts about" not in done.stdout, "nobody knows when"


async def test_who_watches_is_told_of_the_queue(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    failing_mesh.events = [became(job_pb2.JOB_STATE_QUEUED), became(job_pb2.JOB_STATE_COMPLETED, 2)]
    failing_mesh.queue = WAITS
    failing_mesh.queue.estimated_start_time.FromSeconds(1_900_000_000)
    done = await run("train", "watch", JOB_ID, endpoint=endpoint)
    assert done.exit_code == 0, done.stderr
    assert "in the queue: 3, trainers busy, starts about 2030-03-17" in done.stderr


async def test_quotas_are_shown_with_what_is_used(endpoint: str, run: Run) -> None:
    done = await run("quota", "show", endpoint=endpoint)
    assert done.exit_code == 0, done.stderr
    for word in ("1 of 2", "4 of none", "2.5 of none", "3.0 GB of none", "the default holds"):
        assert word in done.stdout
    listed = await run("quota", "list", endpoint=endpoint)
    assert "default" in listed.stdout
    assert "200.0 GB" in listed.stdout


async def test_setting_a_quota_names_what_is_set_and_lifted(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    words = ("quota", "set", "default", "--running-jobs", "2", "--storage", "200GB", "--queued-jobs", "none")
    done = await run(*words, "-o", "json", endpoint=endpoint)
    assert done.exit_code == 0, done.stderr
    (asked,) = failing_mesh.asked
    assert isinstance(asked, quota_service_pb2.UpdateQuotaRequest)
    assert sorted(asked.update_mask.paths) == ["queued_jobs", "running_jobs", "storage_bytes"]
    assert (asked.quota.running_jobs, asked.quota.storage_bytes) == (2, 2 * 10**11)
    assert not asked.quota.HasField("queued_jobs")
    assert asked.request_id
    assert json.loads(done.stdout)["quota"]["userId"] == "default"
    done = await run("quota", "set", "default", "-o", "json", endpoint=endpoint)
    assert json.loads(done.stdout)["error"]["reason"] == "NOTHING_TO_CHANGE"
    done = await run("quota", "set", "default", "--storage", "much", "-o", "json", endpoint=endpoint)
    assert json.loads(done.stdout)["error"]["reason"] == "SIZE_INVALID"


async def test_resetting_a_quota_says_what_holds_then(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    done = await run("quota", "reset", "default", "--etag", "r3", endpoint=endpoint)
    assert done.exit_code == 0, done.stderr
    (asked,) = failing_mesh.asked
    assert isinstance(asked, quota_service_pb2.DeleteQuotaRequest)
    assert (asked.user_id, asked.etag) == ("default", "r3")
    assert asked.request_id
    assert "the default holds" in done.stdout


async def test_trainers_are_listed_drained_and_resumed(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    listed = await run("worker", "list", endpoint=endpoint)
    for word in ("rack-1", WORKER_ID, "busy", "2 x cuda", "24.0 GB", "qlora"):
        assert word in listed.stdout
    for verb, state in (("drain", "draining"), ("resume", "idle")):
        done = await run("worker", verb, WORKER_ID, endpoint=endpoint)
        assert done.stdout == f"rack-1 is {state}\n", done.stderr
    assert [asked.worker_id for asked in failing_mesh.asked] == [WORKER_ID] * 2
