"""Pause, resume, retry, update, stop and delete, as clients call them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from reeltune.scheduler.v1 import training_history_pb2 as history_pb
from reeltune.scheduler.v1 import training_job_pb2 as job_pb
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1 import training_verbs_pb2 as verbs_pb

from meshkit.blob import BlobStore
from meshkit.testing import assert_eventually
from tests.faults.lifecycle_model import Life, check_life
from tests.rpc.scheduler.conftest import NewUser, StartReplica
from tests.rpc.scheduler.scheduler_mesh import Attempt, Replica, Trainer, User, all_of, failure_of, state_name

CODE = grpc.StatusCode
REQUESTS: dict[str, type[Any]] = {
    "Pause": verbs_pb.PauseTrainingJobRequest,
    "Resume": verbs_pb.ResumeTrainingJobRequest,
    "Retry": verbs_pb.RetryTrainingJobRequest,
    "Stop": pb.StopTrainingJobRequest,
    "Delete": pb.DeleteTrainingJobRequest,
}
ALLOWED = {
    "Pause": "QUEUED",
    "Resume": "QUEUED",
    "Retry": "STOPPED, FAILED",
    "Stop": "QUEUED, STARTING, RUNNING, STOPPING",
    "Delete": "QUEUED, COMPLETED, STOPPED, FAILED",
}
STATES = ("QUEUED", "STARTING", "RUNNING", "STOPPING", "COMPLETED", "STOPPED", "FAILED")


async def ask(user: User, verb: str, job_id: str, **fields: Any) -> Any:
    """Calls a verb of the user."""
    request = REQUESTS[verb](job_id=job_id, **fields)
    return await getattr(user.training, f"{verb}TrainingJob")(request, metadata=user.metadata)


async def update(user: User, job: dict[str, Any], *mask: str, **fields: Any) -> job_pb.TrainingJob:
    """Updates a job."""
    request = verbs_pb.UpdateTrainingJobRequest(
        job=job_pb.TrainingJob(**job), update_mask=FieldMask(paths=mask), **fields
    )
    return (await user.training.UpdateTrainingJob(request, metadata=user.metadata)).job


async def life(user: User, job_id: str) -> Life:
    """The job's history, held against the model."""
    request = history_pb.ListEventsRequest(job_id=job_id, page_size=1000)
    return check_life((await user.training.ListEvents(request, metadata=user.metadata)).events)


async def bring(user: User, trainer: Trainer, state: str) -> tuple[str, Attempt | None]:
    """A new job in a state, and its attempt if it has one."""
    job = await user.create()
    if state == "QUEUED":
        return job.id, None
    attempt = await trainer.must_claim()
    assert attempt.job_id == job.id
    if state == "STARTING":
        return job.id, attempt
    async with attempt.attach() as stream:
        await stream.started()
    if state == "COMPLETED":
        await attempt.complete(await attempt.put_files({"a": b"1"}))
    if state in ("STOPPING", "STOPPED"):
        await user.stop(job.id)
    if state == "STOPPED":
        await attempt.complete(await attempt.put_files({"a": b"so far"}))
    if state == "FAILED":
        await attempt.fail("BAD_DATA", "clip 7 is black")
    assert await user.state(job.id) == state
    return job.id, attempt


@pytest.mark.parametrize("state", STATES)
async def test_what_the_state_forbids_is_refused_with_what_would_allow_it(
    user: User, trainer: Trainer, state: str
) -> None:
    job_id, _ = await bring(user, trainer, state)
    for verb, allowed in ALLOWED.items():
        if state in allowed.split(", "):
            continue
        before = (await user.get(job_id)).sequence
        failure = await failure_of(ask(user, verb, job_id, request_id=str(uuid4())))
        assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "JOB_STATE_CONFLICT"), verb
        assert failure.metadata == {"state": state, "allowed": allowed}, verb
        assert failure.precondition_violations
        assert (await user.get(job_id)).sequence == before, verb


async def test_a_paused_job_outlives_every_replica(user: User, replica: Replica, start: StartReplica) -> None:
    job = await user.create()
    paused = (await ask(user, "Pause", job.id)).job
    assert (paused.is_paused, state_name(paused.state), paused.reason) == (True, "QUEUED", job_pb.STATE_REASON_PAUSED)
    assert (await ask(user, "Pause", job.id)).job.sequence == paused.sequence
    await replica.stop()
    user = user.at(await start())
    trainer = await Trainer(user.replica).register()
    assert await trainer.claim() is None
    assert (await user.get(job.id)).is_paused
    resumed = (await ask(user, "Resume", job.id)).job
    assert (resumed.is_paused, resumed.reason) == (False, job_pb.STATE_REASON_RESUMED)
    assert (await trainer.must_claim()).job_id == job.id
    assert (await life(user, job.id)).requeue_reasons == ("PAUSED", "RESUMED")


async def test_a_retry_takes_the_newest_checkpoint_or_none(user: User, trainer: Trainer) -> None:
    job = await user.create()
    for from_scratch, expected in ((None, 0), (False, 20), (True, 0)):
        if from_scratch is not None:
            retried = (await ask(user, "Retry", job.id, from_scratch=from_scratch)).job
            assert (state_name(retried.state), retried.HasField("end_time")) == ("QUEUED", False)
        attempt = await trainer.must_claim()
        assert attempt.claim.checkpoint.step == expected
        async with attempt.attach() as stream:
            await stream.started()
        for step in (10, 20):
            await attempt.commit_checkpoint(step, await attempt.put_files({"state": f"{step}".encode()}, step=step))
        await attempt.fail("BAD_DATA", "clip 7 is black")
    found = await life(user, job.id)
    assert found.attempts == (1, 2, 3)
    assert found.requeue_reasons == ("RETRY_REQUESTED",) * 2


async def test_an_artifact_stays_until_the_retry_has_its_own(
    user: User, trainer: Trainer, blob_store: BlobStore
) -> None:
    job_id, _ = await bring(user, trainer, "STOPPED")
    first = await _artifact(user, job_id)
    await ask(user, "Retry", job_id)
    assert (await user.get(job_id)).has_artifact
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
        files = await attempt.put_files({"a": b"all of it"})
        assert await _artifact(user, job_id) == first
    assert await attempt.complete(files) == "COMPLETED"
    second = await _artifact(user, job_id)
    assert (first.attempt, second.attempt) == (1, 2)
    download = user.training.DownloadArtifact(history_pb.DownloadArtifactRequest(job_id=job_id), metadata=user.metadata)
    assert b"".join(message.chunk for message in await all_of(download)) == b"all of it"

    async def is_collected() -> bool:
        return not await blob_store.list(f"jobs/{job_id}/attempts/1")

    await assert_eventually(is_collected)


async def _artifact(user: User, job_id: str) -> Any:
    request = history_pb.GetArtifactRequest(job_id=job_id)
    artifact = (await user.training.GetArtifact(request, metadata=user.metadata)).artifact
    artifact.ClearField("url_expire_time")
    for file in artifact.files:
        file.ClearField("url")
    return artifact


async def test_a_watch_of_a_retried_job_tells_all_its_lives(user: User, trainer: Trainer) -> None:
    job_id, _ = await bring(user, trainer, "FAILED")
    await ask(user, "Retry", job_id)
    watch = asyncio.create_task(
        all_of(
            user.training.WatchTrainingJob(history_pb.WatchTrainingJobRequest(job_id=job_id), metadata=user.metadata)
        )
    )
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
    await attempt.complete(await attempt.put_files({"a": b"1"}))
    events = [message.event for message in await watch if message.HasField("event")]
    assert check_life(events).states[-1] == "COMPLETED"


VERB_STATES = {"Pause": "QUEUED", "Resume": "PAUSED", "Retry": "FAILED", "Stop": "RUNNING", "Delete": "STOPPED"}


@pytest.mark.parametrize("verb", VERB_STATES)
async def test_a_verb_sent_twenty_times_happens_once_and_answers_the_same(
    user: User, trainer: Trainer, start: StartReplica, verb: str
) -> None:
    job_id, attempt = await _begin(user, trainer, verb)
    other = user.at(await start())
    request_id = str(uuid4())
    answers = await asyncio.gather(*(ask(one, verb, job_id, request_id=request_id) for one in [user, other] * 10))
    assert _one(answers)
    if verb != "Delete":
        sequence = answers[0].job.sequence
        assert (await user.get(job_id)).sequence == sequence, "nothing happened after it"
        if attempt is not None and verb == "Stop":
            assert await attempt.complete(await attempt.put_files({"a": b"1"})) == "STOPPED"
        await ask(other, "Delete", job_id)
    later = await ask(other, verb, job_id, request_id=request_id)
    assert _one([answers[0], later]), "the first answer, whatever happened since"
    failure = await failure_of(ask(user, "Stop" if verb == "Pause" else "Pause", job_id, request_id=request_id))
    assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


@pytest.mark.parametrize("verb", VERB_STATES)
async def test_a_client_that_loses_answers_and_repeats_has_one_effect(
    user: User, trainer: Trainer, start: StartReplica, verb: str
) -> None:
    """The call is cut off at a random moment, before, in or after the transaction, and sent again."""
    other = user.at(await start())
    seed = random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)
    for turn in range(8):
        job_id, attempt = await _begin(user, trainer, verb)
        before = (await user.get(job_id)).sequence
        request_id = str(uuid4())
        for one in (user, other, user):
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(ask(one, verb, job_id, request_id=request_id), dice.random() * 0.02)
        answer = await ask(other, verb, job_id, request_id=request_id)
        assert _one([answer, await ask(user, verb, job_id, request_id=request_id)]), f"seed {seed}, turn {turn}"
        if verb == "Delete":
            assert (await failure_of(user.get(job_id))).reason == "JOB_NOT_FOUND"
            continue
        assert answer.job.sequence == before + 1 == (await user.get(job_id)).sequence, f"seed {seed}, turn {turn}"
        if attempt is not None and verb == "Stop":
            await attempt.fail("CRASHED")
        if verb != "Stop":
            await user.stop(job_id)


async def _begin(user: User, trainer: Trainer, verb: str) -> tuple[str, Attempt | None]:
    state = VERB_STATES[verb]
    job_id, attempt = await bring(user, trainer, "QUEUED" if state == "PAUSED" else state)
    if state == "PAUSED":
        await ask(user, "Pause", job_id)
    return job_id, attempt


def _one(answers: list[Message]) -> bool:
    return len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1


async def test_a_deletion_without_an_id_is_no_repetition(user: User) -> None:
    job = await user.create()
    await ask(user, "Delete", job.id)
    assert (await failure_of(ask(user, "Delete", job.id))).reason == "JOB_NOT_FOUND"


async def test_a_request_id_is_a_uuid(user: User) -> None:
    job = await user.create()
    for verb in REQUESTS:
        failure = await failure_of(ask(user, verb, job.id, request_id="not a uuid"))
        assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "FIELD_INVALID"), verb
        assert failure.field_violations[0].field == "request_id"
    failure = await failure_of(update(user, {"id": job.id, "name": "x"}, request_id="1"))
    assert failure.field_violations[0].field == "request_id"


async def test_updates(user: User, trainer: Trainer) -> None:
    job = await user.create(name="first", priority=3)
    request_id = str(uuid4())
    renamed = await update(user, {"id": job.id, "name": "second", "etag": job.etag}, request_id=request_id)
    assert (renamed.name, renamed.priority) == ("second", 3)
    assert await update(user, {"id": job.id, "name": "second", "etag": job.etag}, request_id=request_id) == renamed
    failure = await failure_of(update(user, {"id": job.id, "name": "third", "etag": job.etag}))
    assert (failure.code, failure.reason) == (CODE.ABORTED, "ETAG_MISMATCH")
    assert failure.metadata["current"] == renamed.etag
    cleared = await update(user, {"id": job.id}, "name", "priority")
    assert (cleared.name, cleared.priority) == ("", 0)
    await trainer.must_claim()
    assert (await update(user, {"id": job.id, "name": "running"})).name == "running"
    assert (await user.create(name="first", priority=3)).id != job.id


async def test_the_submission_of_an_updated_job_is_answered_as_at_first(user: User) -> None:
    request_id = str(uuid4())
    first = await user.create(request_id=request_id, name="first", priority=3)
    await update(user, {"id": first.id, "name": "second", "priority": -3})
    await ask(user, "Pause", first.id)
    assert await user.create(request_id=request_id, name="first", priority=3) == first


BAD_UPDATES: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({}, (), "update_mask"),
    ({"name": "x"}, ("state",), "update_mask"),
    ({"name": "x"}, ("name", "model_id"), "update_mask"),
    ({"name": "x" * 101}, (), "job.name"),
    ({"name": "a\nb"}, (), "job.name"),
    ({"priority": 101}, (), "job.priority"),
    ({"priority": -101}, (), "job.priority"),
    ({"name": "x", "etag": "1" * 65}, (), "job.etag"),
    ({"id": "job_1", "name": "x"}, (), "job.id"),
]


async def test_a_bad_update_names_its_field(user: User) -> None:
    job = await user.create()
    for fields, mask, field in BAD_UPDATES:
        failure = await failure_of(update(user, {"id": job.id, **fields}, *mask))
        assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "FIELD_INVALID"), fields
        assert failure.field_violations[0].field == field, fields
    assert (await user.get(job.id)).etag == job.etag


async def test_checkpoints_page_by_tokens_that_nobody_can_make(user: User, new_user: NewUser, trainer: Trainer) -> None:
    job_id, attempt = await bring(user, trainer, "RUNNING")
    assert attempt is not None
    for step in (10, 20, 30):
        await attempt.commit_checkpoint(step, await attempt.put_files({"state": b"s"}, step=step))

    async def page(one: User = user, **fields: Any) -> verbs_pb.ListCheckpointsResponse:
        request = verbs_pb.ListCheckpointsRequest(**{"job_id": job_id, "page_size": 2, **fields})
        return await one.training.ListCheckpoints(request, metadata=one.metadata)

    first = await page()
    rest = await page(page_token=first.next_page_token)
    assert [(each.step, each.attempt, each.is_newest) for each in [*first.checkpoints, *rest.checkpoints]] == [
        (30, 1, True),
        (20, 1, False),
        (10, 1, False),
    ]
    assert not rest.next_page_token
    assert all(each.size_bytes == 1 and each.HasField("create_time") for each in first.checkpoints)
    token = first.next_page_token
    other_list = await user.training.ListEvents(
        history_pb.ListEventsRequest(job_id=job_id, page_size=1), metadata=user.metadata
    )
    flipped = token[:10] + ("A" if token[10] != "A" else "B") + token[11:]
    other_job = (await user.create()).id
    for one, fields in (
        (new_user(), {"page_token": token}),
        (user, {"page_token": token, "job_id": other_job}),
        (user, {"page_token": flipped}),
        (user, {"page_token": token[:-4]}),
        (user, {"page_token": other_list.next_page_token}),
    ):
        failure = await failure_of(page(one, **fields))
        assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
    assert (await failure_of(page(page_size=-1))).reason == "FIELD_INVALID"
