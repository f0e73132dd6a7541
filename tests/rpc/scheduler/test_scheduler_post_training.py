"""Evaluations and merges: which job they can begin with, what their trainers are given, and that it stays there."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
import pytest_asyncio
from reeltune.catalog.v1 import dataset_statistics_pb2
from reeltune.scheduler.v1 import (
    artifact_pb2,
    evaluation_pb2,
    merge_pb2,
    recipe_pb2,
    source_service_pb2,
    training_job_pb2,
    training_verbs_pb2,
)
from reeltune.scheduler.v1 import post_training_service_pb2 as pb
from reeltune.scheduler.v1 import training_service_pb2 as training_pb
from reeltune.scheduler.v1.post_training_service_pb2_grpc import PostTrainingServiceStub
from reeltune.scheduler.v1.source_service_pb2_grpc import SourceServiceStub

from meshkit.ids import new_id
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.testing import assert_eventually
from tests.rpc.scheduler.conftest import NewUser
from tests.rpc.scheduler.scheduler_mesh import Attempt, Replica, SmallCatalog, Trainer, User, failure_of

CODE = grpc.StatusCode
ADAPTER = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}"}
REPORT = {
    "split": "eval",
    "rows": 2,
    "total_rows": 2,
    "results": [{"condition": "EVALUATION_CONDITION_BASE", "exact_match": {"mean": 0.5, "low": 0.0, "high": 1.0}}],
    "job_id": "job_of_somebody_else",
    "a field of a later version": 1,
}


@pytest.fixture
def user(new_user: NewUser, catalog: SmallCatalog) -> User:
    signed_in = new_user()
    signed_in.dataset_id = catalog.add_dataset(signed_in.id, eval_rows=5)
    return signed_in


@pytest_asyncio.fixture(loop_scope="session")
async def trainer(replica: Replica) -> Trainer:
    return await Trainer(replica).register(recipes=["QLORA", "EVALUATION", "MERGE"])


async def trained(user: User, trainer: Trainer, **fields: Any) -> str:
    """A COMPLETED training job with an adapter."""
    job = await user.create(**fields)
    await finish(await trainer.must_claim(), ADAPTER)
    return job.id


async def finish(attempt: Attempt, contents: dict[str, bytes]) -> str:
    async with attempt.attach() as stream:
        await stream.started()
    return await attempt.complete(await attempt.put_files(contents))


async def evaluate(user: User, job_id: str, **fields: Any) -> training_job_pb2.TrainingJob:
    stub, request = (
        PostTrainingServiceStub(user.replica.channel),
        pb.EvaluateTrainingJobRequest(job_id=job_id, **fields),
    )
    return (await stub.EvaluateTrainingJob(request, metadata=user.metadata)).job


async def merge(user: User, job_id: str, **fields: Any) -> training_job_pb2.TrainingJob:
    stub, request = PostTrainingServiceStub(user.replica.channel), pb.MergeTrainingJobRequest(job_id=job_id, **fields)
    return (await stub.MergeTrainingJob(request, metadata=user.metadata)).job


async def evaluation_of(user: User, job_id: str) -> evaluation_pb2.Evaluation:
    stub = PostTrainingServiceStub(user.replica.channel)
    return (await stub.GetEvaluation(pb.GetEvaluationRequest(job_id=job_id), metadata=user.metadata)).evaluation


async def delete(user: User, job_id: str) -> None:
    await user.training.DeleteTrainingJob(training_pb.DeleteTrainingJobRequest(job_id=job_id), metadata=user.metadata)


async def retry(user: User, job_id: str) -> training_job_pb2.TrainingJob:
    request = training_verbs_pb2.RetryTrainingJobRequest(job_id=job_id)
    return (await user.training.RetryTrainingJob(request, metadata=user.metadata)).job


async def source_of(attempt: Attempt) -> artifact_pb2.Artifact:
    stub = SourceServiceStub(attempt.replica.channel)
    request = source_service_pb2.GetSourceArtifactRequest()
    return (await stub.GetSourceArtifact(request, metadata=attempt.metadata)).artifact


async def test_what_a_training_took_is_not_asked_for_afterwards(user: User, replica: Replica) -> None:
    trainer = await Trainer(replica).register(recipes=["QLORA", "EVALUATION", "MERGE"], memory_bytes=10**10)
    source = await trained(user, trainer, device_memory_bytes=10**10)
    jobs = [await evaluate(user, source), await merge(user, source)]
    assert [(job.device_memory_bytes, job.device_count) for job in jobs] == [(0, 1), (0, 1)]


async def test_an_evaluation_is_a_job_that_tells_how_it_asks(user: User, trainer: Trainer) -> None:
    source = await trained(user, trainer, name="tuned")
    wanted = evaluation_pb2.EvaluationParameters(split="eval", max_rows=3, controls=[2], seed=7)

    job = await evaluate(user, source, parameters=wanted, name="how good", priority=5)

    assert (job.name, job.source_job_id, job.priority) == ("how good", source, 5)
    assert (job.recipe, job.state) == (recipe_pb2.RECIPE_EVALUATION, training_job_pb2.JOB_STATE_QUEUED)
    assert (job.model_id, job.dataset_id) == (user.model_id, user.dataset_id)
    in_force = job.post_training.evaluation
    assert (in_force.split, in_force.max_rows, in_force.max_new_tokens, in_force.seed) == ("eval", 3, 64, 7)
    assert list(in_force.controls) == [evaluation_pb2.EVALUATION_CONTROL_REVERSED_FRAMES]
    assert (await user.get(job.id)).parameters == job.parameters
    all_controls = (await evaluate(user, source)).post_training.evaluation
    none = (await evaluate(user, source, parameters={"without_controls": True})).post_training.evaluation
    assert (len(all_controls.controls), len(none.controls)) == (3, 0)


async def test_what_began_with_a_training_is_found_by_it(user: User, trainer: Trainer) -> None:
    source, other = await trained(user, trainer), await trained(user, trainer)
    evaluation, merging = await evaluate(user, source), await merge(user, source)
    await user.stop(merging.id)

    async def ids(text: str) -> list[str]:
        request = training_pb.ListTrainingJobsRequest(filter=text)
        return [job.id for job in (await user.training.ListTrainingJobs(request, metadata=user.metadata)).jobs]

    assert await ids(f'source_job_id = "{source}"') == [merging.id, evaluation.id]
    assert await ids(f'source_job_id = "{source}" AND state = QUEUED') == [evaluation.id]
    assert await ids(f'source_job_id = "{other}"') == []
    assert await ids('source_job_id = ""') == await ids(f'source_job_id != "{source}"') == [other, source]
    assert await ids('source_job_id != ""') == [merging.id, evaluation.id]
    assert await ids(f'source_job_id = "{source}" AND source_job_id = ""') == []


async def test_what_began_with_a_training_is_told_in_pages_and_to_its_owner_only(
    user: User, trainer: Trainer, new_user: NewUser
) -> None:
    source = await trained(user, trainer)
    begun = [(await evaluate(user, source)).id for _ in range(3)]

    async def page(of: User, token: str = "") -> tuple[list[str], str]:
        wanted = f'source_job_id = "{source}"'
        request = training_pb.ListTrainingJobsRequest(filter=wanted, page_size=2, page_token=token)
        answer = await of.training.ListTrainingJobs(request, metadata=of.metadata)
        return [job.id for job in answer.jobs], answer.next_page_token

    newer, token = await page(user)
    assert (newer, await page(user, token)) == ([begun[2], begun[1]], ([begun[0]], ""))
    assert await page(new_user()) == ([], "")


async def test_only_who_offers_the_recipe_is_given_such_a_job(user: User, trainer: Trainer, replica: Replica) -> None:
    source = await trained(user, trainer)
    await evaluate(user, source)
    older = await Trainer(replica).register(name="older")

    assert await older.claim() is None
    assert (await trainer.must_claim()).claim.job.source_job_id == source


async def test_a_grant_opens_the_source_of_its_job_and_nothing_else(user: User, trainer: Trainer) -> None:
    source = await trained(user, trainer)
    await evaluate(user, source)
    attempt = await trainer.must_claim()

    artifact = await source_of(attempt)
    async with httpx.AsyncClient(trust_env=False) as http:
        read = {file.path: (await http.get(file.url)).content for file in artifact.files}

    assert (artifact.job_id, read) == (source, ADAPTER)
    await user.create()
    training = await trainer.must_claim()
    assert (await failure_of(source_of(training))).reason == "ARTIFACT_NOT_FOUND"
    await attempt.fail("BAD_DATA")
    assert (await failure_of(source_of(attempt))).reason == "ATTEMPT_FENCED"


async def test_a_source_stays_as_it_is_while_it_is_needed(user: User, trainer: Trainer) -> None:
    source = await trained(user, trainer)
    job = await evaluate(user, source)

    for use in (delete(user, source), retry(user, source)):
        failure = await failure_of(use)
        # A completed job cannot be retried anyway.
        assert failure.reason in ("JOB_IN_USE", "JOB_STATE_CONFLICT")
    assert (await failure_of(delete(user, source))).metadata["dependent_job_id"] == job.id
    await finish(await trainer.must_claim(), {"evaluation.json": json.dumps(REPORT).encode()})
    await delete(user, source)

    found = await evaluation_of(user, job.id)
    assert (found.job_id, found.source_job_id, found.dataset_id) == (job.id, source, user.dataset_id)
    assert (found.rows, found.results[0].exact_match.high) == (2, 1.0)


async def test_a_stopped_source_is_not_retried_while_it_is_needed(user: User, trainer: Trainer) -> None:
    job = await user.create()
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
    await user.stop(job.id)
    assert await attempt.complete(await attempt.put_files(ADAPTER)) == "STOPPED"
    merging = await merge(user, job.id)

    assert (await failure_of(retry(user, job.id))).reason == "JOB_IN_USE"
    await user.stop(merging.id)
    assert (await retry(user, job.id)).state == training_job_pb2.JOB_STATE_QUEUED
    failure = await failure_of(merge(user, job.id))
    assert (failure.reason, failure.metadata["state"]) == ("JOB_STATE_CONFLICT", "QUEUED")
    assert (await failure_of(retry(user, merging.id))).reason == "JOB_NOT_FOUND", "its adapter is about to be replaced"


async def test_deletion_and_submission_at_the_same_time_never_both_succeed(user: User, trainer: Trainer) -> None:
    for _ in range(8):
        source = await trained(user, trainer)
        deleted, submitted = await asyncio.gather(delete(user, source), evaluate(user, source), return_exceptions=True)
        assert isinstance(deleted, BaseException) != isinstance(submitted, BaseException)
        if isinstance(submitted, training_job_pb2.TrainingJob):
            await user.stop(submitted.id)


async def test_what_cannot_be_begun_with_is_refused(user: User, trainer: Trainer, catalog: SmallCatalog) -> None:
    waiting = await user.create()
    assert (await failure_of(evaluate(user, waiting.id))).reason == "JOB_STATE_CONFLICT"
    await user.stop(waiting.id)
    assert (await failure_of(evaluate(user, waiting.id))).reason == "ARTIFACT_NOT_FOUND"
    source = await trained(user, trainer)
    evaluation = await evaluate(user, source)
    await finish(await trainer.must_claim(), {"answers.jsonl": b""})
    for call in (evaluate(user, evaluation.id), merge(user, evaluation.id), evaluation_of(user, source)):
        assert (await failure_of(call)).reason == "SOURCE_UNFIT"
    assert (await failure_of(evaluation_of(user, evaluation.id))).reason == "ARTIFACT_NOT_FOUND"
    none_held_out = catalog.add_dataset(user.id)
    catalog.statistics[none_held_out] = dataset_statistics_pb2.DatasetStatistics(
        splits=[{"name": "train", "count": 10}, {"name": "holdout", "count": 2}]
    )
    failure = await failure_of(evaluate(user, source, dataset_id=none_held_out))
    assert (failure.reason, [each.field for each in failure.field_violations]) == (
        "FIELD_INVALID",
        ["parameters.split"],
    )
    await evaluate(user, source, dataset_id=none_held_out, parameters={"split": "train"})
    for split in ("val", "test"):
        failure = await failure_of(evaluate(user, source, dataset_id=none_held_out, parameters={"split": split}))
        assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "FIELD_INVALID")
        assert f"`{split}`" in failure.field_violations[0].description
        assert "holdout or train" in failure.field_violations[0].description
    await evaluate(user, source, dataset_id=none_held_out, parameters={"split": "holdout"})
    both = await failure_of(evaluate(user, source, parameters={"controls": [1], "without_controls": True}))
    assert [each.field for each in both.field_violations] == ["parameters.controls"]
    assert (await failure_of(evaluate(user, source, dataset_id=new_id("ds")))).reason == "DATASET_NOT_FOUND"


async def test_a_merge_can_be_compared_on_another_dataset_than_one_that_is_gone(
    user: User, trainer: Trainer, catalog: SmallCatalog
) -> None:
    source = await trained(user, trainer)
    del catalog.datasets[user.dataset_id]
    other = catalog.add_dataset(user.id)

    async def is_gone() -> bool:
        try:
            await merge(user, source)
        except grpc.aio.AioRpcError as error:
            return failure_from_rpc_error(error).reason == "DATASET_NOT_FOUND"
        return False

    # What was found of it is believed for a moment.
    await assert_eventually(is_gone)
    assert (await merge(user, source, dataset_id=other)).dataset_id == other


async def test_a_temporal_adapter_is_evaluated_and_not_merged(user: User, trainer: Trainer) -> None:
    lora = {"target_groups": ["MODULE_GROUP_LANGUAGE"], "temporal_groups": ["MODULE_GROUP_LANGUAGE"]}
    source = await trained(user, trainer, parameters={"lora": lora})

    failure = await failure_of(merge(user, source))

    assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "SOURCE_UNFIT")
    assert "lora.temporal_groups" in failure.message
    assert (await evaluate(user, source)).parameters.lora.temporal_groups


async def test_a_repeated_request_gets_its_first_answer_even_without_its_source(user: User, trainer: Trainer) -> None:
    source = await trained(user, trainer)
    fields = {"request_id": str(uuid4()), "name": "once"}

    first = await evaluate(user, source, **fields)
    again = await evaluate(user, source, **fields)
    await user.stop(first.id)
    await delete(user, source)

    assert first == again == await evaluate(user, source, **fields)
    assert (await failure_of(evaluate(user, source, **{**fields, "name": "twice"}))).reason in (
        "REQUEST_ID_REUSED",
        "JOB_NOT_FOUND",
    )


async def test_a_merge_tells_what_it_made(user: User, trainer: Trainer) -> None:
    source = await trained(user, trainer)
    job = await merge(user, source, parameters={"weights": merge_pb2.MERGE_WEIGHTS_ORIGINAL, "check_rows": 3})
    assert (job.post_training.merge.weights, job.post_training.merge.check_rows) == (
        merge_pb2.MERGE_WEIGHTS_ORIGINAL,
        3,
    )
    report = {"weights": "MERGE_WEIGHTS_ORIGINAL", "layers": 14, "update_error": 0.8}
    await finish(await trainer.must_claim(), {"reeltune_merge.json": json.dumps(report).encode()})

    stub, request = PostTrainingServiceStub(user.replica.channel), pb.GetMergeRequest(job_id=job.id)
    made = (await stub.GetMerge(request, metadata=user.metadata)).merge

    assert (made.job_id, made.source_job_id, made.layers, made.update_error) == (job.id, source, 14, 0.8)
    assert (await merge(user, source)).post_training.merge.weights == merge_pb2.MERGE_WEIGHTS_DEQUANTIZED


@pytest.mark.parametrize("content", [b"not JSON", b"[]", b'{"rows": "many"}', b'{"results": [{"rows": {}}]}'])
async def test_a_report_that_cannot_be_read_is_damaged(user: User, trainer: Trainer, content: bytes) -> None:
    job = await evaluate(user, await trained(user, trainer))
    await finish(await trainer.must_claim(), {"evaluation.json": content})

    failure = await failure_of(evaluation_of(user, job.id))

    assert (failure.code, failure.reason) == (CODE.DATA_LOSS, "ARTIFACT_DAMAGED")
