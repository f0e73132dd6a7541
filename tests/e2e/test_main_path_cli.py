"""The main job with the command `reeltune`, as somebody types it who has never seen the mesh; answers as JSON."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.e2e.running_mesh import PASSWORD, RunningMesh
from tests.e2e.trained_job import ADAPTER_FILES, folder_digests
from tests.e2e.training_material import Material

STEPS = 6


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def job(stack: RunningMesh, material: Material) -> dict[str, Any]:
    """A job that was trained by commands alone; the user stays signed in."""
    name = f"cli-{secrets.token_hex(4)}"
    signed_up = await stack.run(
        *("signup", name, "--email", f"{name}@example.com", "--password-stdin"), stdin=f"{PASSWORD}\n"
    )
    assert signed_up.returncode == 0, signed_up.stderr
    model = await answer(stack, "model", "upload", str(material.model), "--name", "tiny")
    dataset = await answer(stack, "dataset", "upload", str(material.dataset), "--name", "clips")
    started = await answer(
        *(stack, "train", "start", "--model", "tiny", "--dataset", "clips", "--max-steps", str(STEPS)),
        *("--batch-size", "4", "--max-frames", "4", "--set", "optimization.gradient_checkpointing=false"),
    )
    assert (model["model"]["state"], dataset["dataset"]["state"]) == ("MODEL_STATE_READY", "DATASET_STATE_READY")
    assert started["job"]["state"] == "JOB_STATE_QUEUED"
    watched = await answer(stack, "train", "watch", started["job"]["id"])
    final: dict[str, Any] = watched["job"]
    return final


async def test_it_completes_as_asked(job: dict[str, Any]) -> None:
    assert job["state"] == "JOB_STATE_COMPLETED"
    assert job["parameters"]["optimization"]["maxSteps"] == STEPS
    assert job["hasArtifact"]


async def test_its_log_and_metrics_are_there_afterwards(stack: RunningMesh, job: dict[str, Any]) -> None:
    metrics = await answer(stack, "train", "metrics", job["id"])
    logs = await stack.run("train", "logs", job["id"])
    listed = await answer(stack, "train", "list")

    steps = [int(point["metrics"]["step"]) for point in metrics["points"] if "loss" in point["metrics"]["values"]]
    assert steps == list(range(1, STEPS + 1))
    assert logs.returncode == 0, logs.stderr
    assert "layers quantised" in logs.stdout
    assert [each["id"] for each in listed["jobs"]] == [job["id"]]


async def test_the_adapter_comes_by_url_and_over_grpc(stack: RunningMesh, job: dict[str, Any], tmp_path: Path) -> None:
    by_url = await answer(stack, "train", "download", job["id"], "--to", str(tmp_path / "url"))
    over_grpc = await answer(stack, "train", "download", job["id"], "--to", str(tmp_path / "grpc"), "--over-grpc")

    digests = folder_digests(tmp_path / "url")
    assert set(digests) >= ADAPTER_FILES
    assert digests == folder_digests(tmp_path / "grpc")
    assert digests == {file["path"]: file["sha256"] for file in by_url["artifact"]["files"]}
    assert by_url["artifact"]["digest"] == over_grpc["artifact"]["digest"]
    assert "X-Amz-Signature" not in json.dumps(by_url)


async def test_both_models_answer(stack: RunningMesh, job: dict[str, Any], material: Material) -> None:
    row = material.rows[0]
    clip = str(material.dataset / row["video"])

    said = await answer(stack, "ask", job["id"], clip, row["question"], "--both", "--max-new-tokens", "4")
    of_dataset = await answer(
        stack, "ask", job["id"], f"clips:{row['video']}", row["question"], "--max-new-tokens", "4"
    )

    assert [each["responder"] for each in said["answers"]] == ["RESPONDER_BASE", "RESPONDER_TUNED"]
    assert of_dataset["answers"][0]["text"] == said["answers"][1]["text"], "the same clip, the same answer"


async def test_a_refusal_names_the_field_and_exits_with_1(stack: RunningMesh, job: dict[str, Any]) -> None:
    refused = await stack.run(
        "train", "start", "--model", "tiny", "--dataset", "clips", "--rank", "0", "--output", "json"
    )

    assert refused.returncode == 1
    assert [row["field"] for row in json.loads(refused.stdout)["error"]["fieldViolations"]] == ["parameters.lora.rank"]


async def answer(mesh: RunningMesh, *arguments: str) -> Any:
    """Runs a command that must succeed and returns its JSON."""
    finished = await mesh.run(*arguments, "--output", "json", timeout_seconds=120)
    assert finished.returncode == 0, f"{arguments}: {finished.stdout}{finished.stderr}"
    return json.loads(finished.stdout)
