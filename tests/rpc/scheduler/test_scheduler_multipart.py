"""Large files of attempts, in parts: resumed, assembled by the scheduler alone, collected if they come to nothing."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest_asyncio
from reeltune.scheduler.v1 import training_history_pb2, training_service_pb2

from meshkit.blob import BlobStore
from meshkit.testing import Database, assert_eventually
from tests.rpc.scheduler.conftest import NewUser, StartReplica
from tests.rpc.scheduler.scheduler_mesh import (
    Attempt,
    Replica,
    Trainer,
    User,
    bytes_of,
    failure_of,
    file_of,
    lose_lease,
    put,
)
from tests.rpc.scheduler.test_scheduler_files import _execute, _running

CODE = grpc.StatusCode
PART_BYTES = 5 * 1024 * 1024
"""The least that S3 takes."""
LARGE = random.Random(7).randbytes(2 * PART_BYTES + 1000)
OTHER = bytes(reversed(LARGE))


@pytest_asyncio.fixture(loop_scope="session")
async def replica(start: StartReplica) -> Replica:
    return await start(part_bytes=PART_BYTES, sweep_seconds=0.05)


async def leftovers(blob_store: BlobStore, job_id: str) -> tuple[set[str], int]:
    """What the object store itself lists of a job: objects, and uploads that were never assembled."""
    prefix = f"jobs/{job_id}/"
    objects = {item.key.removeprefix(prefix) for item in await blob_store.list(prefix)}
    return objects, len(await blob_store.list_multipart(prefix))


async def collect_finally(database: Database) -> None:
    """Lets the time pass after which no upload can be under way."""
    await _execute(database, "UPDATE garbage SET collect_time = now(), final_time = now()")


async def test_a_large_file_is_put_in_parts_and_assembled_on_completion(
    user: User, trainer: Trainer, blob_store: BlobStore, database: Database
) -> None:
    attempt = await _running(user, trainer)
    files = await attempt.put_files({"large.safetensors": LARGE, "small.json": b"{}"})
    assert await leftovers(blob_store, attempt.job_id) == ({"attempts/1/small.json"}, 1)

    assert await attempt.complete(files) == "COMPLETED"

    assert await blob_store.get_bytes(f"jobs/{attempt.job_id}/attempts/1/large.safetensors") == LARGE
    assert (await leftovers(blob_store, attempt.job_id))[1] == 0


async def test_an_upload_goes_on_with_the_missing_parts_at_any_replica(
    user: User, trainer: Trainer, start: StartReplica
) -> None:
    attempt = await _running(user, trainer)
    file = file_of("large", LARGE)
    (prepared,) = await attempt.prepare([file], step=3)
    assert not prepared.url
    assert [part.number for part in prepared.parts] == [1, 2, 3]
    assert await put(prepared.parts[1].url, bytes_of(prepared.parts[1], LARGE)) == 200
    assert await put(prepared.parts[0].url, b"short") == 403, "a URL takes its own bytes only"
    failure = await failure_of(attempt.commit_checkpoint(3, [file]))
    assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "FILES_INCOMPLETE")

    # Another replica, with another idea of how large parts are: the upload that is under way keeps its own.
    other = await start(part_bytes=PART_BYTES + 1)
    (again,) = await attempt.prepare([file], step=3, replica=other)
    assert [part.number for part in again.parts] == [1, 3]
    for part in again.parts:
        assert await put(part.url, bytes_of(part, LARGE)) == 200
    (done,) = await attempt.prepare([file], step=3)
    assert (done.url, list(done.parts)) == ("", [])
    await attempt.commit_checkpoint(3, [file])
    await attempt.commit_checkpoint(3, [file])


async def test_parts_of_other_bytes_are_found_out_and_sent_anew(
    user: User, trainer: Trainer, blob_store: BlobStore
) -> None:
    attempt = await _running(user, trainer)
    file = file_of("large", LARGE)
    for part in (await attempt.prepare([file]))[0].parts:
        assert await put(part.url, bytes_of(part, OTHER)) == 200
    failure = await failure_of(attempt.complete([file]))
    assert failure.reason == "FILES_INCOMPLETE"
    assert await leftovers(blob_store, attempt.job_id) == (set(), 0)

    for part in (await attempt.prepare([file]))[0].parts:
        assert await put(part.url, bytes_of(part, LARGE)) == 200
    assert await attempt.complete([file]) == "COMPLETED"


async def test_twenty_calls_at_once_begin_one_upload(user: User, trainer: Trainer, blob_store: BlobStore) -> None:
    attempt = await _running(user, trainer)
    file = file_of("large", LARGE)
    answers = await asyncio.gather(*(attempt.prepare([file]) for _ in range(20)))
    uploads = {answer[0].parts[0].url.partition("uploadId=")[2].partition("&")[0] for answer in answers}
    assert len(uploads) == 1
    assert (await leftovers(blob_store, attempt.job_id))[1] == 1


async def test_a_zombies_late_parts_are_never_assembled_and_collected(
    user: User, trainer: Trainer, blob_store: BlobStore, database: Database
) -> None:
    zombie = await _running(user, trainer)
    large, small = file_of("large", OTHER), file_of("small", b"zombie")
    prepared, whole = await zombie.prepare([large, small])
    assert await put(prepared.parts[0].url, bytes_of(prepared.parts[0], OTHER)) == 200
    await lose_lease(database.dsn, zombie)
    living = await assert_eventually(trainer.claim)
    assert isinstance(living, Attempt)
    files = await living.put_files({"large": LARGE, "small": b"living"})
    assert await living.complete(files) == "COMPLETED"
    before = await artifact_of(user, living.job_id)

    # It wakes up, sends what it still had to send, and wants it to count.
    late = [await put(part.url, bytes_of(part, OTHER)) for part in prepared.parts]
    assert await put(whole.url, b"zombie") == 200
    for call in (zombie.complete([large, small]), zombie.prepare([large]), zombie.find_checkpoint()):
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (CODE.ABORTED, "ATTEMPT_FENCED")

    assert set(late) <= {200, 404}
    after = await artifact_of(user, living.job_id)
    assert (after.digest, after.attempt) == (before.digest, 2)
    assert [file.sha256 for file in after.files] == [file_of("x", data).sha256 for data in (LARGE, b"living")]
    kept = {"attempts/2/large", "attempts/2/small", "attempts/2.manifest.json"}

    async def is_collected() -> bool:
        await collect_finally(database)
        return await leftovers(blob_store, living.job_id) == (kept, 0)

    await assert_eventually(is_collected)
    assert await blob_store.get_bytes(f"jobs/{living.job_id}/attempts/2/large") == LARGE


async def test_what_was_begun_and_never_committed_is_collected_when_the_job_completes(
    user: User, trainer: Trainer, blob_store: BlobStore
) -> None:
    attempt = await _running(user, trainer)
    await attempt.put_files({"state": LARGE}, step=4)
    await attempt.put_files({"state.json": b"{}"}, step=5)
    # Begun by a replica that died before it could record it.
    await blob_store.create_multipart(f"jobs/{attempt.job_id}/attempts/1/checkpoints/6/state")

    assert await attempt.complete(await attempt.put_files({"a": b"1"})) == "COMPLETED"

    async def is_collected() -> bool:
        return await leftovers(blob_store, attempt.job_id) == ({"attempts/1/a", "attempts/1.manifest.json"}, 0)

    await assert_eventually(is_collected)


async def test_a_deleted_job_leaves_no_unfinished_upload(
    user: User, trainer: Trainer, blob_store: BlobStore, database: Database
) -> None:
    attempt = await _running(user, trainer)
    (prepared,) = await attempt.prepare([file_of("large", LARGE)])
    assert await attempt.fail("INTERNAL") == "FAILED"
    request = training_service_pb2.DeleteTrainingJobRequest(job_id=attempt.job_id)
    await user.training.DeleteTrainingJob(request, metadata=user.metadata)

    async def is_collected() -> bool:
        return await leftovers(blob_store, attempt.job_id) == (set(), 0)

    await assert_eventually(is_collected)
    assert await put(prepared.parts[0].url, bytes_of(prepared.parts[0], LARGE)) == 404


async def test_another_jobs_upload_is_left_alone(new_user: NewUser, trainer: Trainer, blob_store: BlobStore) -> None:
    one, other = await _running(new_user(), trainer), await _running(new_user(), trainer)
    await one.prepare([file_of("large", LARGE)])
    await other.prepare([file_of("large", LARGE)])
    assert await one.fail("INTERNAL") == "FAILED"

    async def is_collected() -> bool:
        return await leftovers(blob_store, one.job_id) == (set(), 0)

    await assert_eventually(is_collected)
    assert await leftovers(blob_store, other.job_id) == (set(), 1)


async def artifact_of(user: User, job_id: str):
    request = training_history_pb2.GetArtifactRequest(job_id=job_id)
    return (await user.training.GetArtifact(request, metadata=user.metadata)).artifact
