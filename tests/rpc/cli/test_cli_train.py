from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from reeltune.scheduler.v1 import job_event_pb2 as event_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from meshkit.auth.principal import Caller
from meshkit.testing import TokenMint, assert_eventually
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


def life(final: job_pb2.JobState, message: str = "") -> list[event_pb2.JobEvent]:
    change = event_pb2.StateChange(to=final, message=message)
    progress = job_pb2.JobProgress(phase="training", step=3, total_steps=4, loss=0.5)
    return [
        event_pb2.JobEvent(sequence=1, state_change=event_pb2.StateChange(to=job_pb2.JOB_STATE_QUEUED)),
        event_pb2.JobEvent(sequence=2, progress=progress),
        event_pb2.JobEvent(sequence=3, checkpoint=event_pb2.CheckpointSaved(step=3, size_bytes=1_200_000)),
        event_pb2.JobEvent(sequence=4, state_change=change),
    ]


async def test_watching_tells_the_life_and_ends_with_the_job(
    failing_mesh: FailingMesh, endpoint: str, run: Run
) -> None:
    failing_mesh.events = life(job_pb2.JOB_STATE_COMPLETED)
    failing_mesh.watch_breaks = [2]
    done = await run("train", "watch", JOB_ID, "-o", "json", endpoint=endpoint)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["job"]["state"] == "JOB_STATE_COMPLETED"
    for word in ("queued", "checkpoint at step 3, 1.2 MB", "completed"):
        assert done.stderr.count(word) == 1


async def test_a_failed_job_fails_the_command_with_its_reason(
    failing_mesh: FailingMesh, endpoint: str, run: Run
) -> None:
    failing_mesh.events = life(job_pb2.JOB_STATE_FAILED, "clip 7 is black")
    failing_mesh.job_reason = job_pb2.STATE_REASON_BAD_DATA
    done = await run("train", "watch", JOB_ID, endpoint=endpoint)
    assert done.exit_code == 1
    assert "clip 7 is black [BAD_DATA]" in done.stderr
    assert f"reeltune train logs {JOB_ID}" in done.stderr


async def test_ctrl_c_ends_the_watching_with_130(failing_mesh: FailingMesh, endpoint: str, home: Path) -> None:
    failing_mesh.events = life(job_pb2.JOB_STATE_COMPLETED)[:2]
    failing_mesh.silent_watches = 1
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reeltune_cli", "train", "watch", JOB_ID,
        env={**os.environ, "REELTUNE_HOME": str(home), "REELTUNE_ENDPOINT": endpoint},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        # As a terminal starts it, also when whoever started the tests ignores Ctrl-C, as `nohup` does.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        await assert_eventually(lambda: failing_mesh.watches)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 130
    assert b"Traceback" not in stderr


async def test_downloading_from_the_command_line(
    failing_mesh: FailingMesh, endpoint: str, run: Run, tmp_path: Path
) -> None:
    failing_mesh.artifact_files = {"adapter_config.json": b"{}", "adapter_model.safetensors": os.urandom(5000)}
    for number, extra in enumerate(((), ("--over-grpc",))):
        folder = tmp_path / f"out{number}"
        done = await run("train", "download", JOB_ID, "--to", str(folder), "-o", "json", *extra, endpoint=endpoint)
        assert done.exit_code == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["folder"] == str(folder)
        assert failing_mesh.url not in done.output
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == failing_mesh.artifact_files


async def test_metrics_become_a_table(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    values = {"loss": 0.5, "learning_rate": 2e-4}
    failing_mesh.events = [event_pb2.JobEvent(sequence=1, metrics=event_pb2.MetricPoint(step=1, values=values))]
    done = await run("train", "metrics", JOB_ID, endpoint=endpoint)
    assert done.stdout.splitlines() == ["STEP  LOSS  LEARNING_RATE", "1     0.5   0.0002"]


async def test_metrics_are_summed_up(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    done = await run("train", "metrics", JOB_ID, "--buckets", "1", endpoint=endpoint)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["METRIC", "FROM", "STEP", "TO", "STEP", "MIN", "MAX", "LAST", "POINTS"],
        ["eval_loss", "4", "4", "nan", "1"],
        ["loss", "1", "9", "0.25", "0.5", "0.25", "9"],
    ]
    done = await run("train", "metrics", JOB_ID, "--buckets", "1", "-o", "json", endpoint=endpoint)
    first, second = json.loads(done.stdout)["series"]
    assert "min" not in first["buckets"][0]
    assert second["buckets"][0]["max"] == 0.5


async def test_deleting_asks_first(failing_mesh: FailingMesh, endpoint: str, run: Run) -> None:
    failing_mesh.events = life(job_pb2.JOB_STATE_COMPLETED)
    done = await run("train", "delete", JOB_ID, endpoint=endpoint, stdin="n\n")
    assert (done.exit_code, failing_mesh.deleted) == (1, [])
    done = await run("train", "delete", JOB_ID, "-o", "json", endpoint=endpoint)
    assert json.loads(done.stdout)["error"]["reason"] == "CONFIRMATION_NEEDED"
    done = await run("train", "delete", JOB_ID, "--yes", endpoint=endpoint)
    assert (done.exit_code, failing_mesh.deleted) == (0, [JOB_ID])
