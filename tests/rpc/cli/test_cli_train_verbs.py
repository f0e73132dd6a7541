from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from reeltune.scheduler.v1 import checkpoint_pb2, job_event_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from meshkit.auth.principal import Caller
from meshkit.testing import TokenMint
from reeltune_cli.client import Credentials, FileCredentials
from tests.rpc.cli.conftest import Run
from tests.rpc.cli.failing_mesh import JOB_ID, FailingMesh


@pytest.fixture
def endpoint(failing_mesh: FailingMesh, token_mint: TokenMint, home: Path) -> str:
    """The failing mesh, with somebody signed in there."""
    token = token_mint.token(Caller.USER, "usr_1", roles=("user",))
    address = failing_mesh.served.address
    FileCredentials(home, address).save(Credentials("ada", token, time.time() + 240, "", 0))
    return f"http://{address}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pause",), f"{JOB_ID} is queued, paused"),
        (("resume",), f"{JOB_ID} is queued"),
        (("retry", "--from-scratch"), f"reeltune train watch {JOB_ID}"),
        (("update", "--name", "second"), "second"),
        (("stop",), f"{JOB_ID} is queued"),
        (("delete", "--yes"), f"deleted {JOB_ID}"),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else None,
)
async def test_a_lost_answer_is_asked_for_again_under_the_same_id(
    failing_mesh: FailingMesh, endpoint: str, run: Run, words: tuple[str, ...], said: str
) -> None:
    change = job_event_pb2.StateChange(to=job_pb2.JOB_STATE_FAILED)
    failing_mesh.events = [job_event_pb2.JobEvent(sequence=1, state_change=change)]
    failing_mesh.lost_answers = 1
    verb, *options = words
    done = await run("train", verb, JOB_ID, *options, endpoint=endpoint)
    assert done.exit_code == 0, done.stderr
    assert said in done.stdout
    first, second = failing_mesh.asked
    assert first == second
    assert len(first.request_id) == 36


async def test_a_retry_says_from_where(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    for options, from_scratch in ((), False), (("--from-scratch",), True):
        done = await run("train", "retry", JOB_ID, *options, "-o", "json", endpoint=endpoint)
        assert json.loads(done.stdout)["job"]["state"] == "JOB_STATE_QUEUED"
        assert failing_mesh.asked[-1].from_scratch is from_scratch


async def test_an_update_names_what_it_changes(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    options = ("--priority", "0", "--etag", "7")
    done = await run("train", "update", JOB_ID, *options, endpoint=endpoint)
    assert done.exit_code == 0, done.stderr
    (request,) = failing_mesh.asked
    assert list(request.update_mask.paths) == ["priority"]
    assert (request.job.id, request.job.priority, request.job.etag) == (JOB_ID, 0, "7")
    done = await run("train", "update", JOB_ID, "-o", "json", endpoint=endpoint)
    assert (done.exit_code, json.loads(done.stdout)["error"]["reason"]) == (1, "NOTHING_TO_CHANGE")
    done = await run("train", "update", JOB_ID, "--priority", "101", endpoint=endpoint)
    assert done.exit_code == 2
    assert len(failing_mesh.asked) == 1


async def test_checkpoints_become_a_table(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    failing_mesh.checkpoints = [
        checkpoint_pb2.CheckpointInfo(step=30, attempt=2, size_bytes=1_200_000, eval_loss=0.25, is_newest=True),
        checkpoint_pb2.CheckpointInfo(step=20, attempt=2, size_bytes=1_200_000),
        checkpoint_pb2.CheckpointInfo(step=10, attempt=1, size_bytes=1_200_000),
    ]
    done = await run("train", "checkpoints", JOB_ID, endpoint=endpoint)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["STEP", "ATTEMPT", "SIZE", "EVAL", "LOSS", "SAVED", "RESUME"]
    assert lines[1][:5] == ["30", "2", "1.2", "MB", "0.2500"]
    assert lines[1][-1] == "next"
    assert [line[:4] for line in lines[2:]] == [["20", "2", "1.2", "MB"], ["10", "1", "1.2", "MB"]]
    done = await run("train", "checkpoints", JOB_ID, "-o", "json", endpoint=endpoint)
    assert [each["step"] for each in json.loads(done.stdout)["checkpoints"]] == ["30", "20", "10"]
