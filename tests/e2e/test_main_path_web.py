"""The main job as a browser does it: @connectrpc/connect-web on the generated TypeScript, PUTs to presigned URLs."""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path
from typing import Any

from tests.e2e.grpc_web import GrpcWebClient
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.trained_job import TrainedJob
from tests.e2e.training_material import first_clips

DATASETS = "reeltune/catalog/v1/dataset_service_pb"
MODELS = "reeltune/catalog/v1/model_service_pb"
UPLOADS = "reeltune/catalog/v1/upload_service_pb"
TRAINING = "reeltune/scheduler/v1/training_service_pb"
INFERENCE = "reeltune/trainer/v1/inference_service_pb"
STEPS = 5


async def test_from_clips_to_an_adapter_and_an_answer(stack: RunningMesh, trained: TrainedJob, tmp_path: Path) -> None:
    web, token = stack.web, trained.owner.user.token
    folder = first_clips(trained.material, tmp_path / "two")

    dataset_id = await upload_dataset(stack, token, folder)
    read = await call(web, token, MODELS, "ModelService/GetModel", {"modelId": trained.model.id})
    created = await call(
        web,
        token,
        TRAINING,
        "TrainingService/CreateTrainingJob",
        {
            "modelId": trained.model.id,
            "datasetId": dataset_id,
            "name": "by-web",
            "parameters": {
                "sampling": {"maxFrames": 4},
                "optimization": {"maxSteps": STEPS, "batchSize": 2, "gradientCheckpointing": False},
            },
        },
    )
    job = created["job"]
    watch = await web.call(TRAINING, "TrainingService/WatchTrainingJob", {"jobId": job["id"]}, token=token)

    assert read["model"]["state"] == "MODEL_STATE_READY"
    assert job["state"] == "JOB_STATE_QUEUED"
    assert watch.code == 0
    assert "snapshot" in watch.messages[0]
    events = [message["event"] for message in watch.messages if "event" in message]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    states = [event["stateChange"]["to"].removeprefix("JOB_STATE_") for event in events if "stateChange" in event]
    assert states == ["QUEUED", "STARTING", "RUNNING", "COMPLETED"]
    points = [event["metrics"] for event in events if "loss" in event.get("metrics", {}).get("values", {})]
    assert [int(point["step"]) for point in points] == list(range(1, STEPS + 1))
    await assert_downloads_alike(stack, token, job["id"])
    await assert_answers(web, token, job["id"], folder)


async def test_a_watch_can_be_left_and_taken_up_again(stack: RunningMesh, trained: TrainedJob) -> None:
    rpc = "TrainingService/WatchTrainingJob"
    token = trained.owner.user.token

    left = await stack.web.call(TRAINING, rpc, {"jobId": trained.id}, token=token, limit=4)
    after = left.messages[-1]["sequence"]
    resumed = await stack.web.call(TRAINING, rpc, {"jobId": trained.id, "afterSequence": after}, token=token)

    sequences = [int(m["event"]["sequence"]) for m in (*left.messages, *resumed.messages) if "event" in m]
    assert sequences == list(range(1, len(sequences) + 1))
    assert resumed.messages[-1]["event"]["stateChange"]["to"] == "JOB_STATE_COMPLETED"


async def test_a_refusal_comes_with_its_details(stack: RunningMesh, trained: TrainedJob) -> None:
    stranger = await stack.sign_up("stranger")

    unary = await stack.web.call(
        TRAINING, "TrainingService/StopTrainingJob", {"jobId": trained.id}, token=trained.owner.user.token
    )
    streamed = await stack.web.call(
        TRAINING, "TrainingService/WatchTrainingJob", {"jobId": trained.id}, token=stranger.token
    )
    unsigned = await stack.web.call(TRAINING, "TrainingService/GetTrainingJob", {"jobId": trained.id})

    assert (unary.code, unary.reason) == (9, "JOB_STATE_CONFLICT")
    assert (streamed.code, streamed.reason, streamed.messages) == (5, "JOB_NOT_FOUND", [])
    assert (unsigned.code, unsigned.messages) == (16, [])


async def call(web: GrpcWebClient, token: str, module: str, rpc: str, request: dict[str, Any]) -> Any:
    """Calls a unary rpc that must succeed."""
    answer = await web.call(module, rpc, request, token=token)
    assert answer.code == 0, answer
    return answer.messages[0]


async def upload_dataset(mesh: RunningMesh, token: str, folder: Path) -> str:
    web = mesh.web
    made = await call(web, token, DATASETS, "DatasetService/CreateDataset", {"name": "by-web"})
    dataset_id: str = made["dataset"]["id"]
    (folder / "notes.txt").write_text(f"Nobody has these bytes yet: {secrets.token_hex(16)}\n")
    sent = 0
    for file in (file for file in sorted(folder.rglob("*")) if file.is_file()):
        data = file.read_bytes()
        header = {
            "parentId": dataset_id,
            "path": file.relative_to(folder).as_posix(),
            "sizeBytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        upload = (await call(web, token, UPLOADS, "UploadService/CreateUpload", {"file": header}))["upload"]
        if upload.get("complete"):  # the owner has these bytes in another dataset
            continue
        put = await mesh.http.put(upload["parts"][0]["url"], content=data)
        assert put.status_code == 200, put.text
        await call(web, token, UPLOADS, "UploadService/CompleteUpload", {"uploadId": upload["id"]})
        sent += 1
    assert sent
    await call(web, token, DATASETS, "DatasetService/ValidateDataset", {"datasetId": dataset_id})
    seen = await web.call(DATASETS, "DatasetService/WatchDataset", {"datasetId": dataset_id}, token=token)
    assert seen.messages[-1]["dataset"]["state"] == "DATASET_STATE_READY", seen.messages[-1]
    return dataset_id


async def assert_downloads_alike(mesh: RunningMesh, token: str, job_id: str) -> None:
    """By presigned URL, and streamed through gRPC-Web."""
    artifact = (await call(mesh.web, token, TRAINING, "TrainingService/GetArtifact", {"jobId": job_id}))["artifact"]
    for file in artifact["files"]:
        got = await mesh.http.get(file["url"])
        assert hashlib.sha256(got.content).hexdigest() == file["sha256"]

    streamed = await mesh.web.call(TRAINING, "TrainingService/DownloadArtifact", {"jobId": job_id}, token=token)
    files: dict[str, bytes] = {}
    path = ""
    for message in streamed.messages:
        path = message["file"]["path"] if "file" in message else path
        files[path] = files.get(path, b"") + base64.b64decode(message.get("chunk", ""))
    del files[""]  # the artifact's header, before the first file
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    assert digests == {file["path"]: file["sha256"] for file in artifact["files"]}
    assert streamed.messages[-1]["endDigest"] == artifact["digest"]


async def assert_answers(web: GrpcWebClient, token: str, job_id: str, folder: Path) -> None:
    clip = next((folder / "clips").iterdir()).read_bytes()
    request = {"jobId": job_id, "clipData": base64.b64encode(clip).decode(), "prompt": "Which way?", "maxNewTokens": 4}
    answer = await web.call(INFERENCE, "InferenceService/Generate", request, token=token)
    assert answer.code == 0, answer
    assert "".join(piece.get("text", "") for piece in answer.messages) == answer.messages[-1]["end"].get("text", "")
