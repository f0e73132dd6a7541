"""One contract, three doors: gRPC, gRPC-Web and HTTP/JSON answer, fail and stream alike."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from reeltune.scheduler.v1 import (
    attempt_service_pb2,
    attempt_service_pb2_grpc,
    training_history_pb2,
    training_service_pb2,
    training_service_pb2_grpc,
)
from reeltune.trainer.v1 import inference_service_pb2, inference_service_pb2_grpc

from meshkit.rpc.client import bearer
from tests.rpc.edge.conftest import Edge
from tests.rpc.edge.upstreams import KNOWN_JOB, PASSWORD, STEPWISE_JOB, Upstreams

OTHER_JOB = "job_01ARZ3NDEKTSV4RRFFQ69G5FAW"
TRAINING = "reeltune/scheduler/v1/training_service_pb"


def trainings(edge: Edge) -> training_service_pb2_grpc.TrainingServiceStub:
    return training_service_pb2_grpc.TrainingServiceStub(edge.channel)


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_signing_in_by_json_then_reading_over_every_door(edge: Edge, prefix: str) -> None:
    answer = await edge.http.post(f"{prefix}/auth/login", json={"username": "usr_7", "password": PASSWORD})
    token = answer.json()["tokens"]["accessToken"]

    by_json = await edge.http.get(f"{prefix}/users/me", headers=edge.bearer(token))
    by_web = await edge.web.call("reeltune/auth/v1/user_service_pb", "UserService/GetMe", token=token)

    assert by_json.json()["id"] == "usr_7"
    assert by_web.messages == [{"user": {"id": "usr_7"}}]


async def test_response_body_makes_the_json_the_bare_resource(edge: Edge) -> None:
    one = await edge.http.get(f"/trainings/{KNOWN_JOB}", headers=edge.bearer())
    some = await edge.http.get("/trainings", headers=edge.bearer())
    created = await edge.http.post("/datasets", json={"name": "clips"}, headers=edge.bearer())

    assert (one.json()["id"], one.json()["name"]) == (KNOWN_JOB, 'quotes " and {braces}')
    assert int(one.headers["content-length"]) == len(one.content)
    assert some.json()["jobs"][0]["id"] == KNOWN_JOB
    assert created.json()["name"] == "clips"


async def test_a_cookie_stays_away_from_who_does_not_keep_sessions(edge: Edge, upstreams: Upstreams) -> None:
    headers = {**edge.bearer(), "cookie": "__Host-reeltune-refresh=secret; a=b", "x-reeltune-job": KNOWN_JOB}

    answer = await edge.http.get(f"/v1/trainings/{KNOWN_JOB}", headers=headers)

    assert answer.status_code == 200
    assert "x-reeltune-job" in upstreams.training.header_names
    assert "cookie" not in upstreams.training.header_names


async def test_an_error_carries_its_details_over_every_door(edge: Edge) -> None:
    by_json = await edge.http.get(f"/v1/trainings/{OTHER_JOB}", headers=edge.bearer())
    by_web = await edge.web.call(
        TRAINING, "TrainingService/GetTrainingJob", {"jobId": OTHER_JOB}, token=edge.keys.token()
    )
    call = trainings(edge).GetTrainingJob(
        training_service_pb2.GetTrainingJobRequest(job_id=OTHER_JOB), metadata=bearer(edge.keys.token())
    )
    by_grpc = await error_info(call)

    said = {"reason": "JOB_NOT_FOUND", "domain": "reeltune", "metadata": {"job_id": OTHER_JOB}}
    assert (by_json.status_code, by_json.json()["code"]) == (404, 5)
    assert by_json.json()["details"] == [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", **said}]
    assert (by_web.code, by_web.details) == (5, [{"@type": "google.rpc.ErrorInfo", **said}])
    assert by_grpc == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


async def test_a_bad_field_is_named_over_every_door(edge: Edge) -> None:
    by_json = await edge.http.get("/v1/trainings/nonsense", headers=edge.bearer())
    by_web = await edge.web.call(
        TRAINING, "TrainingService/GetTrainingJob", {"jobId": "nonsense"}, token=edge.keys.token()
    )
    call = trainings(edge).GetTrainingJob(
        training_service_pb2.GetTrainingJobRequest(job_id="nonsense"), metadata=bearer(edge.keys.token())
    )

    assert by_json.status_code == 400
    for details in (by_json.json()["details"], by_web.details):
        bad_request = next(d for d in details if d["@type"].endswith("google.rpc.BadRequest"))
        assert bad_request["fieldViolations"][0]["field"] == "job_id"
    assert await error_info(call) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


async def test_a_watch_streams_over_json_line_by_line_as_it_happens(edge: Edge, upstreams: Upstreams) -> None:
    lines: list[Any] = []
    next_line = upstreams.training.next_line
    async with edge.http.stream("GET", f"/v1/trainings/{STEPWISE_JOB}/watch", headers=edge.bearer()) as answer:
        async for line in answer.aiter_lines():
            if line:
                lines.append(json.loads(line))
                # The service tells the next one only now: had the edge held this one back, none would ever come.
                next_line.set()

    assert [line["sequence"] for line in lines] == ["1", "2", "3"]
    assert lines[0]["event"]["log"]["text"] == "line 1"


async def test_an_admin_sets_and_takes_away_a_quota_by_json(edge: Edge, upstreams: Upstreams) -> None:
    path, admin = "/v1/quotas/usr_01ARZ3NDEKTSV4RRFFQ69G5FAV", edge.bearer(edge.keys.token(role="admin"))
    wanted = {"runningJobs": 2, "etag": "r3"}
    mask = {"updateMask": "runningJobs,queuedJobs"}
    refused = await edge.http.patch(path, params=mask, json=wanted, headers=edge.bearer())
    upstreams.quotas.asked.clear()

    changed = await edge.http.patch(path, params=mask, json=wanted, headers=admin)
    removed = await edge.http.delete(path, params={"etag": "r4"}, headers=admin)

    assert refused.status_code == 403
    assert changed.json() == {"userId": path.rpartition("/")[2], "isDefault": False, **wanted}
    assert removed.json()["isDefault"] is True
    update, delete = upstreams.quotas.asked
    assert (update.quota.running_jobs, update.quota.HasField("queued_jobs")) == (2, False)
    assert list(update.update_mask.paths) == ["running_jobs", "queued_jobs"]
    assert (delete.user_id, delete.etag) == (update.quota.user_id, "r4")


async def test_a_watch_streams_over_grpc_and_grpc_web(edge: Edge) -> None:
    request = training_history_pb2.WatchTrainingJobRequest(job_id=KNOWN_JOB)
    call = trainings(edge).WatchTrainingJob(request, metadata=bearer(edge.keys.token()), timeout=60)
    by_grpc = [message.sequence async for message in call]
    by_web = await edge.web.call(
        TRAINING,
        "TrainingService/WatchTrainingJob",
        {"jobId": KNOWN_JOB, "afterSequence": "1"},
        token=edge.keys.token(),
    )

    assert by_grpc == [1, 2, 3]
    assert [message["sequence"] for message in by_web.messages] == ["2", "3"]
    assert by_web.code == 0


async def test_a_stream_that_fails_says_why_over_json_and_grpc_web(edge: Edge) -> None:
    by_json = await edge.http.get(
        f"/v1/trainings/{KNOWN_JOB}/watch", params={"after_sequence": 3}, headers=edge.bearer()
    )
    by_web = await edge.web.call(
        TRAINING,
        "TrainingService/WatchTrainingJob",
        {"jobId": KNOWN_JOB, "afterSequence": "3"},
        token=edge.keys.token(),
    )

    assert (by_json.status_code, by_json.json()["code"]) == (400, 11)
    assert (by_web.code, by_web.reason) == (11, "SEQUENCE_AHEAD")


async def test_leaving_a_grpc_web_stream_early_is_no_error(edge: Edge) -> None:
    answer = await edge.web.call(
        TRAINING, "TrainingService/WatchTrainingJob", {"jobId": KNOWN_JOB}, token=edge.keys.token(), limit=1
    )

    assert len(answer.messages) == 1


@pytest.mark.parametrize("content", [b"{bad", b"[1]", b'{"username": 5}', b'{"username": {}}'])
async def test_bad_json_is_a_400_in_json(edge: Edge, content: bytes) -> None:
    answer = await edge.http.post("/auth/login", content=content, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["code"] == 3
    assert answer.json()["details"][0]["domain"] == "reeltune"


async def test_an_unknown_query_parameter_is_refused(edge: Edge) -> None:
    answer = await edge.http.get("/v1/trainings", params={"pagesize": 5}, headers=edge.bearer())

    assert answer.status_code == 400
    assert "pagesize" in answer.json()["message"]


async def test_a_service_that_hangs_is_given_up(edge: Edge) -> None:
    by_json, by_web = await asyncio.gather(
        edge.http.post(f"/v1/trainings/{KNOWN_JOB}/stop", json={}, headers=edge.bearer()),
        edge.web.call(TRAINING, "TrainingService/StopTrainingJob", {"jobId": KNOWN_JOB}, token=edge.keys.token()),
    )

    assert (by_json.status_code, by_json.json()["details"][0]["reason"]) == (504, "SERVICE_TIMED_OUT")
    assert by_web.reason == "SERVICE_TIMED_OUT"


async def test_the_same_job_finds_the_same_trainer_over_grpc_and_json(edge: Edge) -> None:
    stub = inference_service_pb2_grpc.InferenceServiceStub(edge.channel)
    asked: dict[str, set[str]] = {}
    for number in range(8):
        job = f"job_01ARZ3NDEKTSV4RRFFQ69G5FA{number}"
        request = inference_service_pb2.GenerateRequest(job_id=job, clip_data=b"x", prompt="what?")
        metadata = (*bearer(edge.keys.token()), ("x-reeltune-job", job))
        by_grpc = [piece.text async for piece in stub.Generate(request, metadata=metadata, timeout=60)]
        by_json = await edge.http.post(
            f"/v1/trainings/{job}/generate", json={"clipData": "eA==", "prompt": "what?"}, headers=edge.bearer()
        )
        asked[job] = {*by_grpc, json.loads(by_json.text.splitlines()[0])["text"]}

    assert all(len(trainers) == 1 for trainers in asked.values()), asked
    assert len(set.union(*asked.values())) == 2, "all jobs went to one trainer"


async def test_what_only_trainers_may_call_is_not_there(edge: Edge) -> None:
    call = attempt_service_pb2_grpc.AttemptServiceStub(edge.channel).GetJwks(
        attempt_service_pb2.GetJwksRequest(), metadata=bearer(edge.keys.token())
    )
    by_web = await edge.web.call(
        "reeltune/scheduler/v1/attempt_service_pb", "AttemptService/GetJwks", token=edge.keys.token()
    )
    by_json = await edge.http.post("/reeltune.scheduler.v1.AttemptService/GetJwks", json={}, headers=edge.bearer())

    assert await error_info(call) == (grpc.StatusCode.UNIMPLEMENTED, "RPC_UNKNOWN")
    assert (by_web.code, by_web.reason) == (12, "RPC_UNKNOWN")
    assert by_json.status_code == 404


async def error_info(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = await rpc_status.aio.from_call(call)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return caught.value.code(), info.reason
