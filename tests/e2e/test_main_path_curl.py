"""The main job as HTTP/JSON with real curl: the bare paths all the way, and the same under /v1."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.e2e.curl import Curl
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.trained_job import TrainedJob
from tests.e2e.training_material import Material

LONG_JOB: dict[str, Any] = {
    "lora": {"rank": 8},
    "sampling": {"maxFrames": 4},
    "optimization": {"maxSteps": 2000, "batchSize": 4, "gradientCheckpointing": False},
}
SHORT_JOB = {**LONG_JOB, "optimization": {**LONG_JOB["optimization"], "maxSteps": 6}}


async def test_a_question_is_answered_as_a_stream(stack: RunningMesh, trained: TrainedJob) -> None:
    curl = Curl(stack, trained.owner.user.token)
    row = trained.material.rows[0]
    question = {
        "datasetClip": {"datasetId": trained.dataset.id, "path": row["video"]},
        "prompt": row["question"],
        "maxNewTokens": 8,
    }

    *texts, last = [piece async for piece in curl.stream(f"/v1/trainings/{trained.id}/generate", question)]

    assert texts
    assert "".join(piece["text"] for piece in texts) == last["end"]["text"]
    assert last["responder"] == "RESPONDER_TUNED"


async def test_from_files_to_an_adapter(stack: RunningMesh, material: Material, tmp_path: Path) -> None:
    curl = Curl(stack, (await stack.sign_up("curl")).token)

    model = await register(curl, "/models", material.model, tmp_path)
    dataset = await register(curl, "/datasets", material.dataset, tmp_path)
    status, job = await curl.post(
        "/trainings", {"modelId": model["id"], "datasetId": dataset["id"], "parameters": SHORT_JOB}
    )
    assert (status, job["state"]) == (200, "JOB_STATE_QUEUED"), job
    states = [
        message["event"]["stateChange"]["to"]
        async for message in curl.stream(f"/v1/trainings/{job['id']}/watch")
        if "stateChange" in message.get("event", {})
    ]
    assert states == [f"JOB_STATE_{state}" for state in ("QUEUED", "STARTING", "RUNNING", "COMPLETED")]
    status, done = await curl.get(f"/trainings/{job['id']}")
    assert (status, done["state"], done["hasArtifact"]) == (200, "JOB_STATE_COMPLETED", True)
    assert done["parameters"]["optimization"]["maxSteps"] == 6
    status, listed = await curl.get("/trainings")
    assert [each["id"] for each in listed["jobs"]] == [job["id"]]

    await download(curl, job["id"], tmp_path)


async def test_the_bare_paths_answer_as_the_versioned_ones_do(stack: RunningMesh, trained: TrainedJob) -> None:
    curl = Curl(stack, trained.owner.user.token)

    for path in (
        "/datasets",
        "/models",
        "/trainings",
        f"/datasets/{trained.dataset.id}",
        f"/models/{trained.model.id}",
        f"/trainings/{trained.id}",
    ):
        status, bare = await curl.get(path)
        assert status == 200, bare
        assert (status, bare) == await curl.get(f"/v1{path}")


async def test_a_running_job_is_stopped_and_keeps_its_adapter_so_far(stack: RunningMesh, trained: TrainedJob) -> None:
    curl = Curl(stack, trained.owner.user.token)
    status, job = await curl.post(
        "/v1/trainings", {"modelId": trained.model.id, "datasetId": trained.dataset.id, "parameters": LONG_JOB}
    )
    assert status == 200, job
    stop_status, refused_deletion, changes = 0, {}, []

    async for message in curl.stream(f"/v1/trainings/{job['id']}/watch"):
        change = message.get("event", {}).get("stateChange")
        if change is None:
            continue
        changes.append(change)
        if change["to"] == "JOB_STATE_RUNNING":
            _, refused_deletion = await curl.delete(f"/v1/trainings/{job['id']}")
            stop_status, _ = await curl.post(f"/trainings/{job['id']}/stop", {})

    assert stop_status == 200
    assert refused_deletion["details"][0]["reason"] == "JOB_STATE_CONFLICT"
    assert [change["to"].removeprefix("JOB_STATE_") for change in changes[-2:]] == ["STOPPING", "STOPPED"]
    assert changes[-1]["reason"] == "STATE_REASON_STOP_REQUESTED"
    _, stopped = await curl.get(f"/trainings/{job['id']}")
    assert stopped["hasArtifact"]
    assert 0 < int(stopped["progress"]["step"]) < 2000
    status, artifact = await curl.get(f"/v1/trainings/{job['id']}/artifact")
    assert "adapter_model.safetensors" in [file["path"] for file in artifact["files"]]
    status, again = await curl.post(f"/v1/trainings/{job['id']}/stop", {})
    assert (status, again["details"][0]["reason"]) == (400, "JOB_STATE_CONFLICT")
    await assert_deletion(curl, job["id"])


async def register(curl: Curl, collection: str, folder: Path, work: Path) -> Any:
    """Creates, uploads every file by presigned PUT, validates, and watches until it is READY."""
    status, made = await curl.post(collection, {"name": "by-curl"})
    assert status == 200, made
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            await upload(curl, made["id"], file, file.relative_to(folder).as_posix(), work)
    kind = collection.rpartition("/")[2]
    status, begun = await curl.post(f"/v1/{kind}/{made['id']}/validate", {})
    assert status == 200, begun
    seen = [message[kind.removesuffix("s")] async for message in curl.stream(f"/v1/{kind}/{made['id']}/watch")]
    assert seen[-1]["state"].endswith("_STATE_READY"), seen[-1]
    status, read = await curl.get(f"{collection}/{made['id']}")
    assert (status, read["state"]) == (200, seen[-1]["state"])
    return read


async def upload(curl: Curl, parent: str, file: Path, path: str, folder: Path) -> None:
    data = file.read_bytes()
    header = {"parentId": parent, "path": path, "sizeBytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    status, begun = await curl.post("/v1/uploads", {"file": header})
    assert status == 200, begun
    for part in begun["parts"]:
        begin = int(part["offsetBytes"])
        piece = folder / "part"
        piece.write_bytes(data[begin : begin + int(part["sizeBytes"])])
        status, said = await curl.raw(part["url"], "--upload-file", str(piece))
        assert status == 200, said
    status, stored = await curl.post(f"/v1/uploads/{begun['id']}/complete", {})
    assert (status, stored["sha256"]) == (200, header["sha256"])


async def download(curl: Curl, job_id: str, folder: Path) -> None:
    status, artifact = await curl.get(f"/v1/trainings/{job_id}/artifact")
    assert status == 200, artifact
    for number, file in enumerate(artifact["files"]):
        target = folder / str(number)
        status, _ = await curl.raw(file["url"], "-o", str(target))
        assert status == 200
        assert hashlib.sha256(target.read_bytes()).hexdigest() == file["sha256"]


async def assert_deletion(curl: Curl, job_id: str) -> None:
    status, said = await curl.delete(f"/trainings/{job_id}")
    assert (status, said) == (200, {})
    for path in (f"/trainings/{job_id}", f"/v1/trainings/{job_id}/events", f"/v1/trainings/{job_id}/artifact"):
        status, said = await curl.get(path)
        assert (status, said["details"][0]["reason"]) == (404, "JOB_NOT_FOUND")
    _, listed = await curl.get("/trainings")
    assert job_id not in [job["id"] for job in listed["jobs"]]
