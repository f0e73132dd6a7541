"""Who may call what, and that nobody learns of other people's jobs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from reeltune.scheduler.v1 import (
    attempt_service_pb2,
    training_service_pb2,
)

from meshkit.auth.tokens import TokenSigner, generate_private_key
from meshkit.ids import new_id
from meshkit.rpc.client import bearer
from tests.contract_services import contract_services
from tests.rpc.scheduler.conftest import NewUser
from tests.rpc.scheduler.scheduler_mesh import Metadata, Replica, Trainer, User, UserKeys, all_of, failure_of

CODE = grpc.StatusCode
METHODS = [method for service in contract_services("scheduler") for method in service.methods]
BY_JOB = [method for method in METHODS if {"job_id", "job"} & set(method.input_type.fields_by_name)]
OPEN = {"GetJwks", "RegisterWorker"}


async def _call(replica: Replica, method: Any, request: Any, metadata: Metadata) -> Any:
    """Calls any rpc by its descriptor."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    response = message_factory.GetMessageClass(method.output_type)
    kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
    call = getattr(replica.channel, kind)(
        path, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
    )
    if method.client_streaming:
        return await all_of(call(iter([request]), metadata=metadata))
    if method.server_streaming:
        return await all_of(call(request, metadata=metadata))
    return await call(request, metadata=metadata)


def _empty(method: Any) -> Any:
    return message_factory.GetMessageClass(method.input_type)()


async def test_another_users_job_and_an_absent_one_are_the_same(
    user: User, new_user: NewUser, replica: Replica, trainer: Trainer
) -> None:
    stranger = new_user()
    job = await stranger.create()
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
    await attempt.complete(await attempt.put_files({"a": b"1"}))
    assert len(BY_JOB) >= 14
    for method in BY_JOB:
        answers = set()
        for job_id in (job.id, new_id("job")):
            request = _about(method, job_id)
            code, details, trailers = await _raw_failure(replica, method, request, user.metadata)
            assert code is CODE.NOT_FOUND, method.name
            answers.add((details.replace(job_id, "…"), trailers.replace(job_id.encode(), "…".encode())))
        assert len(answers) == 1, method.name
        assert b"JOB_NOT_FOUND" in answers.pop()[1]
    assert await stranger.state(job.id) == "COMPLETED"


def _about(method: Any, job_id: str) -> Any:
    request_type = message_factory.GetMessageClass(method.input_type)
    if "job_id" in method.input_type.fields_by_name:
        return request_type(job_id=job_id)
    return request_type(job={"id": job_id, "name": "mine"})


async def _raw_failure(replica: Replica, method: Any, request: Any, metadata: Metadata) -> tuple[Any, str, bytes]:
    """Returns code, message and the bytes of the details, as they come over the wire."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _call(replica, method, request, metadata)
    trailers = dict(refused.value.trailing_metadata() or ())
    return refused.value.code(), refused.value.details() or "", bytes(trailers["grpc-status-details-bin"])


async def test_lists_show_ones_own_jobs_only(user: User, new_user: NewUser) -> None:
    await new_user().create()
    mine = await user.create()
    response = await user.training.ListTrainingJobs(
        training_service_pb2.ListTrainingJobsRequest(), metadata=user.metadata
    )
    assert [job.id for job in response.jobs] == [mine.id]


async def test_every_rpc_refuses_who_proves_nothing(replica: Replica, user_keys: UserKeys) -> None:
    foreign_key = TokenSigner(
        generate_private_key(), kid="auth-test", issuer="reeltune-auth", audience="reeltune", typ="at+jwt"
    )
    credentials: list[Metadata] = [
        (),
        bearer("x.y.z"),
        bearer(foreign_key.sign("usr_1", timedelta(minutes=1), {"roles": ["user"]})),
        user_keys.user("usr_1", ttl=timedelta(minutes=-5)),
    ]
    for method in METHODS:
        for metadata in credentials if method.name not in OPEN else ():
            failure = await failure_of(_call(replica, method, _empty(method), metadata))
            assert failure.code is CODE.UNAUTHENTICATED, method.name


async def test_tokens_of_one_kind_open_no_rpc_of_another(replica: Replica, user: User, trainer: Trainer) -> None:
    await user.create()
    grant = (await trainer.must_claim()).metadata
    of_users = (
        *("TrainingService", "PostTrainingService", "EstimateService", "PresetService"),
        *("WorkerService", "QuotaService", "UseService"),
    )
    admitted = dict.fromkeys(of_users, user.metadata)
    for method in METHODS:
        if method.name in OPEN:
            continue
        for metadata in (user.metadata, bearer(trainer.token), grant):
            own = admitted.get(method.containing_service.name) or (
                bearer(trainer.token) if method.name == "ClaimJob" else grant
            )
            if metadata == own:
                continue
            failure = await failure_of(_call(replica, method, _empty(method), metadata))
            assert (failure.code, failure.reason) == (CODE.PERMISSION_DENIED, "ROLE_REQUIRED"), method.name


async def test_a_wrong_join_secret_registers_nobody(replica: Replica) -> None:
    request = attempt_service_pb2.RegisterWorkerRequest(join_secret="wrong", name="x", device={"device_class": 1})
    failure = await failure_of(replica.attempts.RegisterWorker(request))
    assert (failure.code, failure.reason) == (CODE.UNAUTHENTICATED, "JOIN_SECRET_INVALID")


async def test_the_published_keys_verify_worker_tokens_and_grants(
    replica: Replica, user: User, trainer: Trainer
) -> None:
    import jwt

    keys = (await replica.attempts.GetJwks(attempt_service_pb2.GetJwksRequest())).keys
    jwk = {field.name: value for field, value in keys[0].ListFields()}
    key = jwt.PyJWK(jwk, algorithm="ES256").key
    await user.create()
    attempt = await trainer.must_claim()
    grant = jwt.decode(
        attempt.grant, key, algorithms=["ES256"], audience="reeltune-attempts", issuer="reeltune-scheduler"
    )
    assert (grant["sub"], grant["attempt"], grant["worker"]) == (attempt.job_id, 1, trainer.worker_id)
    assert (grant["dataset"], grant["model"]) == (user.dataset_id, user.model_id)
    assert grant["exp"] - grant["iat"] == 900
    assert jwt.get_unverified_header(attempt.grant)["typ"] == "ag+jwt"
    worker = jwt.decode(
        trainer.token, key, algorithms=["ES256"], audience="reeltune-workers", issuer="reeltune-scheduler"
    )
    assert worker["sub"] == trainer.worker_id
