"""Presets and answers to held-out rows on the command line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from reeltune.scheduler.v1 import job_event_pb2 as event_pb2
from reeltune.scheduler.v1 import prediction_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from meshkit.auth.principal import Caller
from meshkit.testing import TokenMint
from reeltune_cli.client import Credentials, FileCredentials
from tests.rpc.cli.conftest import Run
from tests.rpc.cli.failing_mesh import JOB_ID, FailingMesh


@pytest.fixture
def endpoint(failing_mesh: FailingMesh, token_mint: TokenMint, home: Path) -> str:
    """The mesh, with somebody signed in there."""
    token = token_mint.token(Caller.USER, "usr_1", roles=("user",))
    address = failing_mesh.served.address
    FileCredentials(home, address).save(Credentials("ada", token, time.time() + 240, "", 0))
    return f"http://{address}"


async def test_presets_say_for_whom_they_are_and_what_they_set(endpoint: str, run: Run) -> None:
    done = await run("train", "presets", endpoint=endpoint)
    assert done.exit_code == 0, done.stderr
    for words in ("fast", "balanced", "best", "jetson-8gb", "8 GB", "lora.rank=8", "sampling.max_pixels=50176"):
        assert words in done.stdout
    assert "quantization.quantize_vision=true" in done.stdout
    assert "null" not in done.stdout
    document = json.loads((await run("train", "presets", "-o", "json", endpoint=endpoint)).stdout)
    assert [each["preset"] for each in document["presets"]] == [
        "PRESET_FAST",
        "PRESET_BALANCED",
        "PRESET_BEST",
        "PRESET_JETSON_8GB",
    ]
    assert document["presets"][0]["parameters"]["optimization"]["seed"] == 0


def answered(step: int) -> event_pb2.JobEvent:
    def one(name: str, **fields: object) -> prediction_pb2.Prediction:
        values = {"question": "colour?", "expected": "red", "generated": "red", "loss": 0.25, **fields}
        return prediction_pb2.Prediction(sample_id=name, **values)  # type: ignore[arg-type]

    told = prediction_pb2.Predictions(
        step=step, best=[one("e1")], worst=[one("e2", generated="blu\x1be", is_cut=True, loss=2.5)]
    )
    return event_pb2.JobEvent(sequence=step, predictions=told)


async def test_answers_to_held_out_rows_become_a_table_and_are_told_while_watching(
    failing_mesh: FailingMesh, endpoint: str, run: Run
) -> None:
    change = event_pb2.StateChange(to=job_pb2.JOB_STATE_COMPLETED)
    failing_mesh.events = [answered(1), answered(2), event_pb2.JobEvent(sequence=3, state_change=change)]
    done = await run("train", "predictions", JOB_ID, endpoint=endpoint)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["STEP", "AMONG", "SAMPLE", "LOSS", "ANSWERED", "EXPECTED"],
        ["2", "best", "e1", "0.2500", "red", "red"],
        ["2", "worst", "e2", "2.5000", "blu\N{REPLACEMENT CHARACTER}e", "…", "red"],
    ]
    every = json.loads((await run("train", "predictions", JOB_ID, "--all", "-o", "json", endpoint=endpoint)).stdout)
    assert [int(each["predictions"]["step"]) for each in every["predictions"]] == [1, 2]
    watched = await run("train", "watch", JOB_ID, endpoint=endpoint)
    assert "step 2, best e1, loss 0.2500: 'red', expected 'red'" in watched.stderr
    assert "\x1b" not in watched.stderr
