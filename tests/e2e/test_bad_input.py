"""What is refused, and how: the same refusal over gRPC, gRPC-Web and JSON, naming the field or file."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from reeltune.catalog.v1 import dataset_content_pb2, dataset_pb2, model_pb2, model_service_pb2, upload_service_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as dataset_service
from reeltune.scheduler.v1 import training_service_pb2

from meshkit.rpc.status import failure_from_rpc_error
from reeltune_cli.client import Client
from reeltune_cli.client.upload import upload_folder
from reeltune_cli.client.watch import watch_dataset
from tests.e2e.curl import Curl
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.trained_job import Owner, TrainedJob, new_owner
from tests.e2e.training_material import Material, first_clips, register_dataset, register_model

TRAINING = "reeltune/scheduler/v1/training_service_pb"
INVALID_ARGUMENT = 3
VALIDATION_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a caller is told, by whichever door."""

    code: int
    reason: str
    message: str
    fields: frozenset[str]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"lora": {"rank": 0}}, "parameters.lora.rank"),
        ({"lora": {"rank": 1025}}, "parameters.lora.rank"),
        ({"optimization": {"learningRate": 0}}, "parameters.optimization.learning_rate"),
        ({"sampling": {"maxFrames": 769}}, "parameters.sampling.max_frames"),
        ({"optimization": {"epochs": 2, "maxSteps": 10}}, "parameters.optimization.max_steps"),
        ({"evaluateEverySteps": 1}, "parameters.evaluate_every_steps"),
    ],
)
async def test_parameters_that_cannot_be_are_refused_by_name(
    stack: RunningMesh, trained: TrainedJob, parameters: dict[str, Any], field: str
) -> None:
    request = {"modelId": trained.model.id, "datasetId": trained.dataset.id, "parameters": parameters}

    refusals = await create_by_every_door(stack, trained.owner, request)

    assert refusals["grpc"] == refusals["web"] == refusals["json"]
    assert (refusals["grpc"].code, refusals["grpc"].reason) == (INVALID_ARGUMENT, "FIELD_INVALID")
    assert refusals["grpc"].fields == {field}


async def test_more_frames_than_the_model_takes_are_refused(
    stack: RunningMesh, trained: TrainedJob, tmp_path: Path
) -> None:
    limited = tmp_path / "limited"
    shutil.copytree(trained.material.model, limited)
    config = json.loads((limited / "processor_config.json").read_text())
    config["video_processor"]["max_frames"] = 6
    (limited / "processor_config.json").write_text(json.dumps(config))
    model = await register_model(trained.owner.client, limited, "limited")
    assert (model.state, model.facts.max_frames) == (model_pb2.MODEL_STATE_READY, 6)
    request = {
        "modelId": model.id,
        "datasetId": trained.dataset.id,
        "parameters": {"sampling": {"maxFrames": 7}},
    }

    refusals = await create_by_every_door(stack, trained.owner, request)

    assert refusals["grpc"] == refusals["web"] == refusals["json"]
    assert refusals["grpc"].code == INVALID_ARGUMENT
    assert refusals["grpc"].fields == {"parameters.sampling.max_frames"}
    assert "6" in refusals["grpc"].message


async def test_a_body_that_is_no_request_is_refused_as_json(stack: RunningMesh, trained: TrainedJob) -> None:
    curl = Curl(stack, trained.owner.user.token)

    for body in ("{", '{"modelId": 7}', '{"parameters": {"lora": {"rank": "many"}}}', '{"noSuchField": 1}'):
        status, said = await curl.call("/trainings", "-d", body)
        assert (status, said["code"]) == (400, INVALID_ARGUMENT), body


async def test_clips_that_are_none_are_reported_and_can_be_mended(
    stack: RunningMesh, material: Material, tmp_path: Path
) -> None:
    whole = first_clips(material, tmp_path / "whole", 4)
    broken = shutil.copytree(whole, tmp_path / "broken")
    cut, empty, text, _ = sorted((broken / "clips").iterdir())
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    empty.write_bytes(b"")
    text.write_text("this is no video, whatever its name says\n" * 20)

    async with new_owner(stack) as owner:
        began = time.monotonic()
        dataset = await register_dataset(owner.client, broken)
        assert time.monotonic() - began < VALIDATION_SECONDS
        assert dataset.state == dataset_pb2.DATASET_STATE_ERROR
        request = dataset_content_pb2.ListDatasetIssuesRequest(dataset_id=dataset.id)
        issues = list((await owner.client.datasets.ListDatasetIssues(request)).issues)
        assert {issue.file for issue in issues} == {f"clips/{file.name}" for file in (cut, empty, text)}
        assert all(issue.row and issue.reason and issue.message and issue.remedy for issue in issues)
        assert all(issue.severity == dataset_pb2.ISSUE_SEVERITY_ERROR for issue in issues)
        refused = await refusal_of(submission(owner.client, dataset.id))
        assert refused.reason == "MODEL_NOT_FOUND", "the first thing that is not there"

        # The service that read them is alive, and the mended folder makes the dataset whole.
        await upload_folder(owner.client, dataset.id, whole)
        await owner.client.datasets.ValidateDataset(dataset_service.ValidateDatasetRequest(dataset_id=dataset.id))
        async with asyncio.timeout(VALIDATION_SECONDS):
            states = [seen.state async for seen in watch_dataset(owner.client, dataset.id)]
        assert states[-1] == dataset_pb2.DATASET_STATE_READY


@pytest.mark.parametrize("path", ["pytorch_model.bin", "weights/adapter.pt", "modeling_custom.py", "model.PKL"])
async def test_what_could_run_code_is_not_taken_into_a_model(stack: RunningMesh, path: str) -> None:
    async with new_owner(stack) as owner:
        model = await new_model(owner.client)
        header = file_header(model, path, b"anything")

        by_url = await refusal_of(
            owner.client.uploads.CreateUpload(upload_service_pb2.CreateUploadRequest(file=header))
        )
        by_stream = await refusal_of(owner.client.uploads.UploadFile(messages(header, [b"anything"]), timeout=60))
        by_json, said = await Curl(stack, owner.user.token).post(
            "/v1/uploads", {"file": json_format.MessageToDict(header)}
        )

        for refused in (by_url, by_stream):
            assert (refused.code, refused.reason) == (INVALID_ARGUMENT, "FILE_NOT_ALLOWED")
            assert path in refused.message
        assert by_json == 400
        assert path in said["message"]
        assert await listed(owner.client, model) == []


async def test_a_model_that_asks_for_its_own_code_is_refused(
    stack: RunningMesh, material: Material, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(material.model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForImageTextToText": "modeling_custom.Model"}
    (folder / "config.json").write_text(json.dumps(config))

    async with new_owner(stack) as owner:
        model = await register_model(owner.client, folder)

    assert model.state == model_pb2.MODEL_STATE_ERROR
    assert [issue.file for issue in model.issues] == ["config.json"]
    assert "auto_map" in model.issues[0].message


async def test_an_upload_that_is_cut_leaves_nothing(stack: RunningMesh) -> None:
    data = bytes(range(256)) * 4096
    async with new_owner(stack) as owner:
        created = await owner.client.datasets.CreateDataset(dataset_service.CreateDatasetRequest(name="cut"))
        dataset_id = created.dataset.id
        header = file_header(dataset_id, "clips/cut.mp4", data)

        short = await refusal_of(
            owner.client.uploads.UploadFile(messages(header, [data[: len(data) // 2]]), timeout=60)
        )
        await abandon_stream(owner.client, header, data)
        await cut_put(stack, owner, header, data)
        other = bytes(len(data))
        forged = await refusal_of(owner.client.uploads.UploadFile(messages(header, [other]), timeout=60))

        assert short.reason == "LENGTH_MISMATCH"
        assert forged.reason == "DIGEST_MISMATCH"
        assert await listed(owner.client, dataset_id) == []


async def create_by_every_door(mesh: RunningMesh, owner: Owner, request: dict[str, Any]) -> dict[str, Refusal]:
    """Asks for a job by gRPC, gRPC-Web and JSON; each must be refused."""
    message = json_format.ParseDict(request, training_service_pb2.CreateTrainingJobRequest())
    by_grpc = await refusal_of(owner.client.training.CreateTrainingJob(message))
    web = await mesh.web.call(TRAINING, "TrainingService/CreateTrainingJob", request, token=owner.user.token)
    status, said = await Curl(mesh, owner.user.token).post("/trainings", request)
    assert status == 400, said
    return {
        "grpc": by_grpc,
        "web": refusal(web.code, web.message, web.details),
        "json": refusal(said["code"], said["message"], said["details"]),
    }


def refusal(code: int, message: str, details: list[dict[str, Any]]) -> Refusal:
    reason = next(d["reason"] for d in details if d["@type"].endswith("google.rpc.ErrorInfo"))
    violations = [row for d in details if d["@type"].endswith("google.rpc.BadRequest") for row in d["fieldViolations"]]
    return Refusal(code, reason, message, frozenset(row["field"] for row in violations))


async def refusal_of(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    failure = failure_from_rpc_error(caught.value)
    fields = frozenset(row.field for row in failure.field_violations)
    return Refusal(failure.code.value[0], failure.reason, failure.message, fields)


def submission(client: Client, dataset_id: str) -> Any:
    absent = "mdl_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    request = training_service_pb2.CreateTrainingJobRequest(model_id=absent, dataset_id=dataset_id)
    return client.training.CreateTrainingJob(request)


async def new_model(client: Client) -> str:
    return (await client.models.CreateModel(model_service_pb2.CreateModelRequest(name="unsafe"))).model.id


def file_header(parent_id: str, path: str, data: bytes) -> upload_service_pb2.FileHeader:
    digest = hashlib.sha256(data).hexdigest()
    return upload_service_pb2.FileHeader(parent_id=parent_id, path=path, size_bytes=len(data), sha256=digest)


def messages(
    header: upload_service_pb2.FileHeader, chunks: list[bytes]
) -> Iterator[upload_service_pb2.UploadFileRequest]:
    yield upload_service_pb2.UploadFileRequest(header=header)
    for data in chunks:
        for begin in range(0, len(data), 512 * 1024):
            yield upload_service_pb2.UploadFileRequest(chunk=data[begin : begin + 512 * 1024])


async def listed(client: Client, parent_id: str) -> list[str]:
    page = await client.uploads.ListFiles(upload_service_pb2.ListFilesRequest(parent_id=parent_id))
    return [file.path for file in page.files]


async def abandon_stream(client: Client, header: upload_service_pb2.FileHeader, data: bytes) -> None:
    """Sends half of a file and goes away in mid-stream."""
    call = client.uploads.UploadFile(timeout=60)
    await call.write(upload_service_pb2.UploadFileRequest(header=header))
    await call.write(upload_service_pb2.UploadFileRequest(chunk=data[: len(data) // 2]))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def cut_put(mesh: RunningMesh, owner: Owner, header: upload_service_pb2.FileHeader, data: bytes) -> None:
    """PUTs half of a part and cuts the connection; completing is then refused."""
    created = await owner.client.uploads.CreateUpload(upload_service_pb2.CreateUploadRequest(file=header))

    async def body() -> Any:
        yield data[: len(data) // 2]
        raise ConnectionResetError("cut by the test")

    with pytest.raises(ConnectionResetError):
        await mesh.http.put(created.upload.parts[0].url, content=body(), headers={"content-length": str(len(data))})
    completed = await refusal_of(
        owner.client.uploads.CompleteUpload(upload_service_pb2.CompleteUploadRequest(upload_id=created.upload.id))
    )
    assert completed.reason == "UPLOAD_INCOMPLETE"
