"""Stores that fail and disks that are full: promises 8 and 23."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshkit.testing import assert_eventually
from tests.faults.fault_mesh import FaultMesh
from tests.faults.mesh_user import MeshUser, rehearsal
from tests.faults.store_proxy import StoreFaults

QUICK = rehearsal(3, 20, checkpoint_every_steps=0)
MIB = 1024 * 1024


async def test_a_store_that_fails_half_the_time_makes_no_bad_artifact(mesh: FaultMesh, user: MeshUser) -> None:
    mesh.store.faults = StoreFaults(
        refused=0.3, refused_after=0.1, uploads_cut=0.15, downloads_cut=0.15, downloads_damaged=0.1
    )
    jobs = [await user.create(rehearsal(6, 20, artifact_bytes=300_000)) for _ in range(4)]
    ended = await user.all_ended([job.id for job in jobs], seconds=120)
    done = mesh.store.done
    mesh.store.heal()

    assert {each.state for each in ended} == {"COMPLETED"}
    assert min(done[kind] for kind in ("refused", "uploads_cut", "downloads_cut")) > 0, done
    for job in jobs:
        await assert_whole(user, job.id)


async def test_a_slow_store_is_waited_for(mesh: FaultMesh, user: MeshUser) -> None:
    mesh.store.faults = StoreFaults(latency_seconds=1.5)
    job = await user.create(rehearsal(4, 20))

    ended = await user.ended(job.id, seconds=120)

    assert (ended.state, ended.life.attempts) == ("COMPLETED", (1,)), "slow is not dead"
    mesh.store.heal()
    await assert_whole(user, job.id)


async def test_a_broker_whose_disk_is_full_costs_no_job(mesh: FaultMesh, user: MeshUser) -> None:
    await mesh.nats.kill()
    with small_disk(mesh.nats.data_dir / "jetstream", 8 * MIB) as disk:
        filler = disk / "filler"
        await mesh.nats.start()
        fill(filler)
        jobs = [await user.create(QUICK) for _ in range(8)]
        ended = await user.all_ended([job.id for job in jobs])
        filler.unlink()
        await mesh.nats.kill()
    await mesh.nats.start()

    assert {each.life.states[-1] for each in ended} == {"COMPLETED"}
    assert (await user.ended((await user.create(QUICK)).id)).state == "COMPLETED"


async def test_a_full_disk_under_the_logs_costs_no_job(mesh: FaultMesh, user: MeshUser) -> None:
    victims = (*mesh.schedulers, *mesh.trainers)
    paths = [victim.log_path for victim in victims]
    with small_disk(mesh.home / "small-logs", MIB) as disk:
        for victim in victims:
            victim.log_path = disk / victim.log_path.name
        await asyncio.gather(*(victim.restart() for victim in victims))
        fill(disk / "filler")
        jobs = [await user.create(QUICK) for _ in range(6)]
        ended = await user.all_ended([job.id for job in jobs])
        for victim, path in zip(victims, paths, strict=True):
            await victim.take_down()
            victim.log_path = path

    assert {each.life.states[-1] for each in ended} == {"COMPLETED"}
    await mesh.heal()
    await assert_eventually(lambda: all(victim.pid for victim in victims))


async def assert_whole(user: MeshUser, job_id: str) -> None:
    """Every byte of the artifact is the one that was promised."""
    artifact = await user.artifact(job_id)
    assert artifact.files
    async with user.client.open_http() as http:
        for file in artifact.files:
            content = (await http.get(file.url)).content
            assert hashlib.sha256(content).hexdigest() == file.sha256, file.path
            assert len(content) == file.size_bytes


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own, of so many bytes, at the folder."""
    folder.mkdir(exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mounting, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"NOT TESTED: a full disk needs the program mount: {error}")
    if mounted.returncode != 0:
        pytest.skip(f"NOT TESTED: a full disk needs the right to mount a small one: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: whoever was killed a moment ago may still hold a file.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    """Writes until there is no room left."""
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"\0" * 4096):
            pass
