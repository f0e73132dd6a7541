"""What attempts store, on a store in trouble and by processes that die: promises 7, 13, 17 and 23."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest
import pytest_asyncio
from reeltune.scheduler.v1 import checkpoint_pb2, job_event_pb2
from reeltune.scheduler.v1 import training_verbs_pb2 as verbs_pb

from meshkit.postgres import open_pool
from meshkit.testing import assert_eventually
from tests.faults.fault_mesh import PART_BYTES, STOP_GRACE_SECONDS, FaultMesh
from tests.faults.mesh_user import MeshUser, rehearsal
from tests.faults.store_proxy import StoreFaults

LARGE = PART_BYTES + 1_000_000
WORK = rehearsal(8, 250, checkpoint_every_steps=2, checkpoint_bytes=LARGE, artifact_bytes=2 * LARGE)
LONG = rehearsal(250, 20, checkpoint_every_steps=0, checkpoint_bytes=LARGE, artifact_bytes=LARGE)
ENDED_SECONDS = 150


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def unbroken(large_mesh: tuple[FaultMesh, MeshUser]) -> str:
    """Digest of what `WORK` makes when nothing goes wrong: whatever happens to it on the way, it must make the same."""
    mesh, user = large_mesh
    await mesh.heal()
    return await digest_of(user, (await user.create(WORK)).id)


async def digest_of(user: MeshUser, job_id: str) -> str:
    assert (await user.ended(job_id, ENDED_SECONDS)).state == "COMPLETED"
    return str((await user.artifact(job_id)).digest)


async def check_bytes(user: MeshUser, job_id: str) -> None:
    """GETs the artifact as its owner does: every byte is what was published."""
    async with user.client.open_http() as client:
        for file in (await user.artifact(job_id)).files:
            content = (await client.get(file.url)).content
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size_bytes, file.sha256)


async def checkpoints_of(user: MeshUser, job_id: str) -> list[checkpoint_pb2.CheckpointInfo]:
    """The newest first."""
    request = verbs_pb.ListCheckpointsRequest(job_id=job_id)
    return list((await user.patiently(lambda: user.client.training.ListCheckpoints(request))).checkpoints)


def steps_of(events: list[job_event_pb2.JobEvent], attempt: int) -> list[int]:
    """The steps that an attempt made."""
    mine = [event for event in events if event.attempt == attempt and event.HasField("metrics")]
    return [event.metrics.step for event in mine if "loss" in event.metrics.values]


async def test_a_store_that_fails_every_second_time_costs_time_and_spoils_nothing(
    mesh: FaultMesh, user: MeshUser, unbroken: str, seed: int
) -> None:
    mesh.store.begin_chance_with(seed)
    mesh.store.faults = StoreFaults(
        refused=0.5,
        refused_after=0.1,
        uploads_cut=0.2,
        downloads_cut=0.2,
        downloads_damaged=0.05,
        uploads_repeated=0.2,
        latency_seconds=0.05,
    )
    before = dict(mesh.store.done)
    job = await user.create(WORK)
    assert await digest_of(user, job.id) == unbroken
    done = {name: count - before.get(name, 0) for name, count in mesh.store.done.items()}
    mesh.store.heal()
    await check_bytes(user, job.id)
    assert done["refused"] > 10, done
    assert done["requests"] < 1000, f"tries are bounded: {done}"


async def test_a_store_that_is_away_is_a_delay(mesh: FaultMesh, user: MeshUser, unbroken: str) -> None:
    job = await user.create(WORK)
    await mesh.s3.kill()
    await assert_eventually(lambda: _is_publishing(user, job.id))
    await mesh.s3.start()
    ended = await user.ended(job.id, ENDED_SECONDS)
    assert (ended.state, ended.job.attempt) == ("COMPLETED", 1)
    assert (await user.artifact(job.id)).digest == unbroken


async def test_a_stop_leaves_adapter_and_checkpoint_and_a_retry_goes_on_from_there(
    mesh: FaultMesh, user: MeshUser
) -> None:
    whole = await user.create(LONG)
    job = await user.create(LONG)

    async def is_under_way() -> bool:
        return (await user.get(job.id)).progress.step >= 5

    await assert_eventually(is_under_way)
    began = time.monotonic()
    await user.stop(job.id)
    ended = await user.ended(job.id)

    assert time.monotonic() - began < STOP_GRACE_SECONDS + 10
    assert (ended.state, ended.reason, ended.job.has_artifact) == ("STOPPED", "STOP_REQUESTED", True)
    await check_bytes(user, job.id)
    stopped_at = steps_of(ended.events, 1)[-1]
    newest = (await checkpoints_of(user, job.id))[0]
    assert (newest.step, newest.attempt, newest.is_newest) == (stopped_at, 1, True)

    request = verbs_pb.RetryTrainingJobRequest(job_id=job.id)
    await user.patiently(lambda: user.client.training.RetryTrainingJob(request))
    digest = await digest_of(user, job.id)

    steps = steps_of(await user.events(job.id), 2)
    assert steps == list(range(stopped_at + 1, 251)), "not one step is made again, and none is left out"
    assert digest == await digest_of(user, whole.id)


@pytest.mark.parametrize(
    ("service", "failpoint"),
    [
        ("trainer", "trainer.files.prepared=kill:2"),
        ("trainer", "trainer.checkpoint.uploaded=kill:2"),
        ("trainer", "trainer.checkpoint.uploaded=error:2"),
        ("trainer", "trainer.artifact.uploaded=kill"),
        ("scheduler", "upload.begun=kill:2"),
        ("scheduler", "checkpoint.files_verified=kill"),
        ("scheduler", "checkpoint.after_commit=kill"),
        ("scheduler", "complete.files_verified=kill"),
        ("scheduler", "complete.after_commit=kill"),
    ],
)
async def test_a_death_anywhere_in_publishing_loses_no_checkpoint_and_spoils_no_artifact(
    mesh: FaultMesh, user: MeshUser, unbroken: str, service: str, failpoint: str
) -> None:
    victims = mesh.trainers if service == "trainer" else mesh.schedulers
    await asyncio.gather(*(victim.restart(failpoints=failpoint) for victim in victims))
    job = await user.create(WORK)
    digest = await digest_of(user, job.id)
    assert any(victim.reached(failpoint.partition("=")[0]) for victim in victims)
    assert digest == unbroken
    events = await user.events(job.id)
    saved = [0]
    for attempt in range(1, (await user.get(job.id)).attempt + 1):
        if steps := steps_of(events, attempt):
            # The newest that was recorded before this attempt; nobody begins anew while there is one.
            assert steps[0] == saved[-1] + 1
        saved += [
            event.checkpoint.step for event in events if event.attempt == attempt and event.HasField("checkpoint")
        ]


async def test_a_zombies_late_parts_change_nothing_and_are_collected(
    mesh: FaultMesh, user: MeshUser, unbroken: str
) -> None:
    zombie, living = mesh.trainers
    await living.take_down()
    await zombie.restart(failpoints="trainer.files.prepared=stop")
    job = await user.create(
        rehearsal(8, 60, checkpoint_every_steps=0, checkpoint_bytes=LARGE, artifact_bytes=2 * LARGE)
    )
    await assert_eventually(lambda: zombie.reached("trainer.files.prepared"))
    await living.start()
    digest = await digest_of(user, job.id)
    assert digest == unbroken

    # It goes on where it stood: with URLs in its hands that are still good for a quarter of an hour.
    zombie.thaw()
    await assert_eventually(lambda: [e for e in zombie.events("attempt.fenced") if e["job_id"] == job.id])

    artifact = await user.artifact(job.id)
    assert (artifact.digest, artifact.attempt) == (digest, 2)
    await check_bytes(user, job.id)
    await _collect_finally(mesh)
    await assert_eventually(lambda: _is_clean(mesh, job.id))


async def _is_publishing(user: MeshUser, job_id: str) -> bool:
    return (await user.get(job_id)).progress.phase == "publishing"


async def _collect_finally(mesh: FaultMesh) -> None:
    """Lets the time pass after which no upload can be under way."""
    pool = await open_pool(mesh.postgres.service_dsn("scheduler"), "scheduler", max_size=1)
    await pool.execute("UPDATE garbage SET collect_time = now(), final_time = now()")
    await pool.close()


async def _is_clean(mesh: FaultMesh, job_id: str) -> bool:
    """Whether the store itself lists nothing of attempt 1: no object, and no upload that was never assembled."""
    prefix = f"jobs/{job_id}/attempts/1/"
    store = mesh.open_store()
    try:
        return not await store.list(prefix) and not await store.list_multipart(prefix)
    finally:
        await store.close()
