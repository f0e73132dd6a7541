"""User B on user A's job, artifact, dataset and model: byte for byte the answer for an id that does not exist."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from reeltune.scheduler.v1 import post_training_service_pb2 as post
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1 import training_verbs_pb2 as verbs
from reeltune.trainer.v1 import inference_service_pb2 as inference_pb2

from reeltune_cli.client import Client
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.trained_job import TrainedJob, get_job, new_owner
from tests.e2e.training_material import register_model

ABSENT = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
ABSENT_JOB = f"job_{ABSENT}"
TRAINING = "reeltune/scheduler/v1/training_service_pb"
REQUESTS: dict[str, type[Message]] = {
    "GetTrainingJob": pb.GetTrainingJobRequest,
    "UpdateTrainingJob": verbs.UpdateTrainingJobRequest,
    "StopTrainingJob": pb.StopTrainingJobRequest,
    "PauseTrainingJob": verbs.PauseTrainingJobRequest,
    "ResumeTrainingJob": verbs.ResumeTrainingJobRequest,
    "RetryTrainingJob": verbs.RetryTrainingJobRequest,
    "DeleteTrainingJob": pb.DeleteTrainingJobRequest,
    "WatchTrainingJob": history.WatchTrainingJobRequest,
    "ListEvents": history.ListEventsRequest,
    "ListLogs": history.ListLogsRequest,
    "ListMetrics": history.ListMetricsRequest,
    "ListCheckpoints": verbs.ListCheckpointsRequest,
    "GetArtifact": history.GetArtifactRequest,
    "DownloadArtifact": history.DownloadArtifactRequest,
    "EvaluateTrainingJob": post.EvaluateTrainingJobRequest,
    "GetEvaluation": post.GetEvaluationRequest,
    "MergeTrainingJob": post.MergeTrainingJobRequest,
    "GetMerge": post.GetMergeRequest,
}
HTTP = [
    ("GET", "/trainings/{id}"),
    ("GET", "/v1/trainings/{id}"),
    ("PATCH", "/v1/trainings/{id}"),
    ("POST", "/trainings/{id}/stop"),
    ("POST", "/v1/trainings/{id}/pause"),
    ("POST", "/v1/trainings/{id}/resume"),
    ("POST", "/v1/trainings/{id}/retry"),
    ("DELETE", "/trainings/{id}"),
    ("GET", "/v1/trainings/{id}/watch"),
    ("GET", "/v1/trainings/{id}/events"),
    ("GET", "/v1/trainings/{id}/logs"),
    ("GET", "/v1/trainings/{id}/metrics"),
    ("GET", "/v1/trainings/{id}/checkpoints"),
    ("GET", "/v1/trainings/{id}/artifact"),
    ("POST", "/v1/trainings/{id}/evaluate"),
    ("GET", "/v1/trainings/{id}/evaluation"),
    ("POST", "/v1/trainings/{id}/merge"),
    ("GET", "/v1/trainings/{id}/merge"),
]
DETAILS = "grpc-status-details-bin"


def test_every_rpc_about_a_job_is_tried() -> None:
    services = (
        pb.DESCRIPTOR.services_by_name["TrainingService"],
        post.DESCRIPTOR.services_by_name["PostTrainingService"],
    )
    about_a_job = {
        method.name
        for service in services
        for method in service.methods
        if {"job_id", "job"} & set(method.input_type.fields_by_name)
    }

    assert about_a_job == set(REQUESTS)


async def test_over_grpc(stack: RunningMesh, trained: TrainedJob) -> None:
    async with new_owner(stack, "stranger") as stranger:
        for rpc, request in REQUESTS.items():
            foreign = await refused(stranger.client, rpc, about(request, trained.id), trained.id)
            absent = await refused(stranger.client, rpc, about(request, ABSENT_JOB), ABSENT_JOB)
            assert foreign[0] is grpc.StatusCode.NOT_FOUND, rpc
            assert foreign == absent, rpc
        assert not (await stranger.client.training.ListTrainingJobs(pb.ListTrainingJobsRequest())).jobs

    assert (await get_job(trained.owner.client, trained.id)).has_artifact, "and nothing has happened to it"


async def test_over_json(stack: RunningMesh, trained: TrainedJob) -> None:
    stranger = await stack.sign_up("stranger")

    for method, path in HTTP:
        answers = []
        for job_id in (trained.id, ABSENT_JOB):
            body = {"POST": {}, "PATCH": {"name": "mine"}}.get(method)
            answer = await stack.http.request(method, path.format(id=job_id), json=body, headers=stranger.headers)
            answers.append((answer.status_code, answer.content.replace(job_id.encode(), b"ID")))
        assert answers[0][0] == 404, f"{method} {path}: {answers[0]}"
        assert answers[0] == answers[1], f"{method} {path}"


async def test_over_grpc_web(stack: RunningMesh, trained: TrainedJob) -> None:
    stranger = await stack.sign_up("stranger")

    for rpc in ("GetTrainingJob", "WatchTrainingJob"):
        answers = []
        for job_id in (trained.id, ABSENT_JOB):
            answer = await stack.web.call(TRAINING, f"TrainingService/{rpc}", {"jobId": job_id}, token=stranger.token)
            answers.append((answer.code, answer.message.replace(job_id, "ID"), without(answer.details, job_id)))
        assert answers[0] == answers[1]
        assert answers[0][0] == 5


async def test_asking_another_users_model(stack: RunningMesh, trained: TrainedJob) -> None:
    async with new_owner(stack, "stranger") as stranger:
        answers = []
        for job_id in (trained.id, ABSENT_JOB):
            request = inference_pb2.GenerateRequest(job_id=job_id, clip_data=b"clip", prompt="What?")
            call = stranger.client.inference.Generate(request, timeout=60)
            answers.append(await refusal(call, job_id))

    assert answers[0] == answers[1]
    assert answers[0][0] is grpc.StatusCode.NOT_FOUND


async def test_training_another_users_model(stack: RunningMesh, trained: TrainedJob) -> None:
    async with new_owner(stack, "stranger") as stranger:
        answers = []
        for model_id in (trained.model.id, f"mdl_{ABSENT}"):
            request = pb.CreateTrainingJobRequest(model_id=model_id, dataset_id=f"ds_{ABSENT}")
            answers.append(await refusal(stranger.client.training.CreateTrainingJob(request), model_id))

    assert answers[0] == answers[1]
    assert answers[0][0] is grpc.StatusCode.NOT_FOUND


async def test_training_on_another_users_dataset(stack: RunningMesh, trained: TrainedJob) -> None:
    async with new_owner(stack, "stranger") as stranger:
        own = await register_model(stranger.client, trained.material.model)
        answers = []
        for dataset_id in (trained.dataset.id, f"ds_{ABSENT}"):
            request = pb.CreateTrainingJobRequest(model_id=own.id, dataset_id=dataset_id)
            answers.append(await refusal(stranger.client.training.CreateTrainingJob(request), dataset_id))

    assert answers[0] == answers[1]
    assert answers[0][0] is grpc.StatusCode.NOT_FOUND
    assert "DATASET_NOT_FOUND" in str(answers[0][2])


def about(request: type[Message], job_id: str) -> Message:
    """A request of that kind about a job."""
    if "job_id" in request.DESCRIPTOR.fields_by_name:
        return request(job_id=job_id)
    return request(job={"id": job_id, "name": "mine"})


async def refused(client: Client, rpc: str, request: Message, job_id: str) -> tuple[Any, str, bytes]:
    stub = client.training if hasattr(client.training, rpc) else client.post_training
    return await refusal(getattr(stub, rpc)(request, timeout=60), job_id)


async def refusal(call: Any, asked_for: str) -> tuple[Any, str, bytes]:
    """Code, message and the details' bytes, with what was asked for blotted out (both ids are of the same length)."""
    # Reading the first message of a stream, or the only one of a unary call.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (anext(aiter(call)) if hasattr(call, "__aiter__") else call)
    trailers = dict(caught.value.trailing_metadata() or ())
    details = trailers.get(DETAILS, b"")
    return (
        caught.value.code(),
        str(caught.value.details()).replace(asked_for, "ID"),
        bytes(details).replace(asked_for.encode(), b"ID"),
    )


def without(details: list[dict[str, Any]], job_id: str) -> str:
    return str(details).replace(job_id, "ID")
