"""What attempts store: verified, published once, collected when nobody needs it."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
from reeltune.scheduler.v1 import artifact_pb2, training_history_pb2, training_service_pb2
from reeltune.scheduler.v1 import attempt_service_pb2 as pb

from meshkit.blob import BlobStore
from meshkit.postgres import open_pool
from meshkit.testing import Database, assert_eventually
from tests.rpc.scheduler.scheduler_mesh import Attempt, Trainer, User, all_of, failure_of, file_of, lose_lease

CODE = grpc.StatusCode


async def _running(user: User, trainer: Trainer) -> Attempt:
    await user.create()
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
    return attempt


async def _execute(database: Database, statement: str, *arguments: Any) -> None:
    pool = await open_pool(database.dsn, "scheduler", max_size=1)
    await pool.execute(statement, *arguments)
    await pool.close()


async def test_missing_short_and_changed_files_are_not_published(
    user: User, trainer: Trainer, blob_store: BlobStore
) -> None:
    attempt = await _running(user, trainer)
    good = await attempt.put_files({"good": b"good"})
    name = f"jobs/{attempt.job_id}/attempts/1"
    await blob_store.put_bytes(f"{name}/short", b"shor")
    await blob_store.put_bytes(f"{name}/changed", b"chanXed")
    for path, data in (("missing", b"x"), ("short", b"short"), ("changed", b"changed")):
        failure = await failure_of(attempt.complete([*good, file_of(path, data)]))
        assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "FILES_INCOMPLETE")
        assert failure.metadata["path"] == path
        failure = await failure_of(attempt.commit_checkpoint(3, [file_of(path, data)]))
        assert failure.reason == "FILES_INCOMPLETE"
    assert not [item.key for item in await blob_store.list() if item.key.endswith("manifest.json")]
    assert await user.state(attempt.job_id) == "RUNNING"
    assert await attempt.complete(good) == "COMPLETED"


async def test_a_url_takes_exactly_what_was_announced(user: User, trainer: Trainer) -> None:
    attempt = await _running(user, trainer)
    request = pb.PrepareFilesRequest(files=[file_of("a", b"12345")])
    prepared = await attempt.replica.attempts.PrepareFiles(request, metadata=attempt.metadata)
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.put(prepared.files[0].url, content=b"123456")).status_code == 403
        assert (await client.put(prepared.files[0].url, content=b"12345")).status_code == 200


async def test_bad_paths_get_no_url(user: User, trainer: Trainer) -> None:
    attempt = await _running(user, trainer)
    for path in ("../escape", "/etc/passwd", "checkpoints/1/a", ".hidden", ""):
        file = artifact_pb2.ArtifactFile(path=path, size_bytes=1, sha256="ab" * 32)
        request = pb.PrepareFilesRequest(files=[file])
        failure = await failure_of(attempt.replica.attempts.PrepareFiles(request, metadata=attempt.metadata))
        assert failure.reason == "FIELD_INVALID"
        assert failure.field_violations[0].field == "files[0].path"


async def test_an_artifact_without_files_needs_a_stop(user: User, trainer: Trainer) -> None:
    attempt = await _running(user, trainer)
    failure = await failure_of(attempt.complete([]))
    assert (failure.reason, failure.metadata["field"]) == ("FIELD_INVALID", "files")
    await user.stop(attempt.job_id)
    assert await attempt.complete([]) == "STOPPED"
    assert await attempt.complete([]) == "STOPPED", "may be repeated"
    request = training_history_pb2.GetArtifactRequest(job_id=attempt.job_id)
    failure = await failure_of(user.training.GetArtifact(request, metadata=user.metadata))
    assert (failure.code, failure.reason) == (CODE.NOT_FOUND, "ARTIFACT_NOT_FOUND")


async def test_the_next_attempt_goes_on_from_the_newest_whole_checkpoint(
    user: User, trainer: Trainer, blob_store: BlobStore
) -> None:
    attempt = await _running(user, trainer)
    for step in (10, 20):
        files = await attempt.put_files({"state.json": b"%d" % step, "manifest.json": b"{}"}, step=step)
        await attempt.commit_checkpoint(step, files)
        await attempt.commit_checkpoint(step, files)
    assert await attempt.fail("PREEMPTED") == "QUEUED"
    second = await trainer.must_claim()
    assert (second.number, second.claim.checkpoint.step) == (2, 20)
    async with httpx.AsyncClient(trust_env=False) as client:
        fetched = {file.path: (await client.get(file.url)).content for file in second.claim.checkpoint.files}
    assert fetched == {"state.json": b"20", "manifest.json": b"{}"}
    assert await second.fail("PREEMPTED") == "QUEUED"
    await blob_store.remove(f"jobs/{attempt.job_id}/attempts/1/checkpoints/20/state.json")
    third = await trainer.must_claim()
    assert (third.number, third.claim.checkpoint.step) == (3, 10)


async def test_what_a_dead_attempt_left_is_collected_and_its_checkpoints_stay(
    user: User, trainer: Trainer, blob_store: BlobStore, database: Database
) -> None:
    attempt = await _running(user, trainer)
    files = await attempt.put_files({"state.json": b"1"}, step=5)
    await attempt.commit_checkpoint(5, files)
    await attempt.put_files({"half.safetensors": b"123"})
    await attempt.put_files({"state.json": b"2"}, step=6)
    assert await attempt.fail("CRASHED") == "QUEUED"
    folder = f"jobs/{attempt.job_id}/attempts/1"
    kept = {f"{folder}/checkpoints/5/state.json", f"{folder}/checkpoints/5.manifest.json"}

    async def is_collected() -> bool:
        return {item.key for item in await blob_store.list(f"jobs/{attempt.job_id}/")} == kept

    await assert_eventually(is_collected)
    # An upload that was still under way when the attempt died, found at the second look.
    await blob_store.put_bytes(f"{folder}/late.safetensors", b"late")
    await _execute(database, "UPDATE garbage SET collect_time = now(), final_time = now()")
    await assert_eventually(is_collected)


async def test_a_deleted_job_leaves_no_object(user: User, trainer: Trainer, blob_store: BlobStore) -> None:
    attempt = await _running(user, trainer)
    request = training_service_pb2.DeleteTrainingJobRequest(job_id=attempt.job_id)
    failure = await failure_of(user.training.DeleteTrainingJob(request, metadata=user.metadata))
    assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "JOB_STATE_CONFLICT")
    assert failure.metadata["state"] == "RUNNING"
    assert await attempt.complete(await attempt.put_files({"a/b": b"1"})) == "COMPLETED"
    await user.training.DeleteTrainingJob(request, metadata=user.metadata)
    failure = await failure_of(user.training.DeleteTrainingJob(request, metadata=user.metadata))
    assert failure.reason == "JOB_NOT_FOUND"

    async def is_empty() -> bool:
        return not await blob_store.list(f"jobs/{attempt.job_id}/")

    await assert_eventually(is_empty)


async def test_a_damaged_artifact_is_never_passed_off_as_whole(
    user: User, trainer: Trainer, blob_store: BlobStore
) -> None:
    attempt = await _running(user, trainer)
    assert await attempt.complete(await attempt.put_files({"a": b"right"})) == "COMPLETED"
    await blob_store.put_bytes(f"jobs/{attempt.job_id}/attempts/1/a", b"wrong")
    request = training_history_pb2.DownloadArtifactRequest(job_id=attempt.job_id)
    failure = await failure_of(all_of(user.training.DownloadArtifact(request, metadata=user.metadata)))
    assert (failure.code, failure.reason) == (CODE.DATA_LOSS, "ARTIFACT_DAMAGED")


async def test_a_zombie_cannot_publish(user: User, trainer: Trainer, database: Database) -> None:
    zombie = await _running(user, trainer)
    files = await zombie.put_files({"a": b"zombie"})
    await lose_lease(database.dsn, zombie)

    async def claim() -> Attempt | None:
        return await trainer.claim()

    living = await assert_eventually(claim)
    assert living is not None
    for call in (
        zombie.complete(files),
        zombie.commit_checkpoint(1, files),
        zombie.put_files({"b": b"1"}),
        zombie.fail("CRASHED"),
    ):
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (CODE.ABORTED, "ATTEMPT_FENCED")
    assert await living.complete(await living.put_files({"a": b"living"})) == "COMPLETED"
    request = training_history_pb2.GetArtifactRequest(job_id=living.job_id)
    artifact = (await user.training.GetArtifact(request, metadata=user.metadata)).artifact
    assert (artifact.attempt, artifact.files[0].sha256) == (2, file_of("a", b"living").sha256)
