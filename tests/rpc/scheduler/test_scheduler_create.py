"""Submitting: what is accepted, what is refused and how."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import grpc
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb
from reeltune.scheduler.v1 import training_service_pb2, worker_pb2

from meshkit.ids import new_id
from tests.rpc.scheduler.conftest import NewUser, StartReplica
from tests.rpc.scheduler.scheduler_mesh import Replica, SmallCatalog, Trainer, User, failure_of

CODE = grpc.StatusCode


async def test_twenty_equal_requests_make_one_job_and_get_one_answer(
    user: User, replica: Replica, start: StartReplica
) -> None:
    other = user.at(await start())
    request_id = str(uuid4())
    answers = await asyncio.gather(
        *(one.create(request_id=request_id, name="once") for one in [user, other] * 10),
    )
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    trainer = await Trainer(replica).register()
    await trainer.must_claim()
    later = await user.create(request_id=request_id, name="once")
    assert later == answers[0], "the first answer, whatever happened since"
    assert await user.state(later.id) == "STARTING"
    failure = await failure_of(user.create(request_id=request_id, name="another"))
    assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_request_ids_of_different_users_have_nothing_to_do_with_each_other(new_user: NewUser) -> None:
    request_id = str(uuid4())
    jobs = [await new_user().create(request_id=request_id) for _ in range(2)]
    assert jobs[0].id != jobs[1].id


async def test_a_job_is_accepted_in_milliseconds(user: User) -> None:
    await user.create()
    seconds = []
    for _ in range(20):
        begin = time.monotonic()
        await user.create()
        seconds.append(time.monotonic() - begin)
    # A wait that is not for something would be in every one of them.
    assert min(seconds) < 0.2


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"model_id": "mdl_1"}, "model_id"),
    ({"dataset_id": ""}, "dataset_id"),
    ({"name": "x" * 101}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"request_id": "not a uuid"}, "request_id"),
    ({"device_class": 17}, "device_class"),
    ({"parameters": {"lora": {"rank": 0}}}, "parameters.lora.rank"),
    ({"parameters": {"lora": {"alpha": float("nan")}}}, "parameters.lora.alpha"),
    ({"parameters": {"sampling": {"max_frames": 17}}}, "parameters.sampling.max_frames"),
    ({"parameters": {"optimization": {"epochs": 1, "max_steps": 5}}}, "parameters.optimization.max_steps"),
    ({"parameters": {"evaluate_every_steps": 5}}, "parameters.evaluate_every_steps"),
]


async def test_a_bad_field_is_named(user: User) -> None:
    for given, field in BAD_FIELDS:
        fields = dict(given)
        if "parameters" in fields:
            fields["parameters"] = parameters_pb.TrainingParameters(**fields["parameters"])
        failure = await failure_of(user.create(**fields))
        assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "FIELD_INVALID"), given
        assert [violation.field for violation in failure.field_violations] == [field]


async def test_what_the_user_may_not_read_is_not_there(user: User, new_user: NewUser, catalog: SmallCatalog) -> None:
    stranger = new_user()
    for foreign, absent, reason, field in (
        (stranger.model_id, new_id("mdl"), "MODEL_NOT_FOUND", "model_id"),
        (stranger.dataset_id, new_id("ds"), "DATASET_NOT_FOUND", "dataset_id"),
    ):
        failures = [await failure_of(user.create(**{field: identifier})) for identifier in (foreign, absent)]
        assert all((failure.code, failure.reason) == (CODE.NOT_FOUND, reason) for failure in failures)
        assert failures[0].message.replace(foreign, "") == failures[1].message.replace(absent, "")
    assert await user.create(model_id=catalog.add_model())


async def test_what_is_not_ready_is_refused(user: User, catalog: SmallCatalog) -> None:
    for state in ("PENDING", "PROCESSING", "ERROR"):
        failure = await failure_of(user.create(model_id=catalog.add_model(state=state)))
        assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "MODEL_NOT_READY")
        assert failure.metadata["state"] == state
        failure = await failure_of(user.create(dataset_id=catalog.add_dataset(state=state)))
        assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "DATASET_NOT_READY")


async def test_a_model_without_a_video_processor_is_refused(user: User, catalog: SmallCatalog) -> None:
    failure = await failure_of(user.create(model_id=catalog.add_model(has_video_processor=False)))
    assert (failure.reason, failure.metadata["field"]) == ("FIELD_INVALID", "model_id")


async def test_a_default_gives_way_to_a_small_model(user: User, catalog: SmallCatalog) -> None:
    job = await user.create(model_id=catalog.add_model(max_frames=4))
    assert job.parameters.sampling.max_frames == 4


async def test_4bit_is_refused_where_no_known_trainer_can(user: User, replica: Replica) -> None:
    cpu, cuda = worker_pb2.DEVICE_CLASS_CPU, worker_pb2.DEVICE_CLASS_CUDA
    await Trainer(replica).register(can_train_4bit=False)
    await Trainer(replica).register(device_class="CUDA", can_train_4bit=True)
    failure = await failure_of(user.create(device_class=cpu))
    assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "DEVICE_UNFIT")
    assert failure.metadata["problem"] == "named symbol not found"
    plain = parameters_pb.QuantizationParameters(type=parameters_pb.QUANTIZATION_TYPE_NONE)
    assert await user.create(device_class=cpu, parameters=parameters_pb.TrainingParameters(quantization=plain))
    assert await user.create(device_class=cuda)
    assert await user.create()
    assert await user.create(device_class=worker_pb2.DEVICE_CLASS_JETSON), "nobody is known, nobody is known to fail"


async def test_without_the_catalog_nothing_is_accepted(start: StartReplica, user: User) -> None:
    alone = user.at(await start(catalog_target="127.0.0.1:9"))
    failure = await failure_of(alone.create(request_id=str(uuid4())))
    assert (failure.code, failure.reason) == (CODE.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert failure.retry_after is not None
    answer = await user.training.ListTrainingJobs(
        training_service_pb2.ListTrainingJobsRequest(), metadata=user.metadata
    )
    assert not answer.jobs
