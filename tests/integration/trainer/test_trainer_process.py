"""The trainer as a process: started, stopped, killed, and left alone by the services around it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil
from reeltune.scheduler.v1 import training_job_pb2
from reeltune.trainer.v1 import trainer_service_pb2
from reeltune.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub

from meshkit.embedded import NatsServer
from meshkit.jetstream import JetStream, ensure_consumer, ensure_work_queue, publish
from meshkit.rpc.client import open_channel
from meshkit.testing import assert_eventually
from meshkit.testing.plugin import NATS_USER
from tests.rpc.trainer.fixtures import StartTrainer
from tests.rpc.trainer.mesh_doubles import WORKER, job
from tests.rpc.trainer.running_mesh import Mesh


def child_of(tmp_path: Path) -> psutil.Process:
    """The training child as it was recorded in its folder."""
    (record,) = (tmp_path / "data" / "jobs").glob("*/child.json")
    return psutil.Process(json.loads(record.read_text())["pid"])


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_it_serves_at_once_and_registers_when_the_scheduler_is_back(
    mesh: Mesh, start_trainer: StartTrainer
) -> None:
    mesh.scheduler.is_away = True
    trainer = await start_trainer("normal")
    await trainer.address()
    await assert_eventually(lambda: trainer.events("worker.not_registered"))
    mesh.scheduler.is_away = False

    await assert_eventually(lambda: mesh.scheduler.registrations)

    assert mesh.scheduler.registrations[0].device.decoder == "pyav"
    assert "Traceback" not in trainer.log.read_text()


async def test_it_claims_job_after_job(mesh: Mesh, start_trainer: StartTrainer) -> None:
    mesh.scheduler.waiting += [job(), job()]
    await start_trainer("normal")

    await assert_eventually(lambda: len(mesh.scheduler.completed) == 2)


async def test_killed_it_takes_its_child_along_and_clears_up_when_started_again(
    mesh: Mesh, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    mesh.scheduler.waiting.append(job())
    trainer = await start_trainer("deaf")
    await assert_eventually(lambda: mesh.scheduler.received and len(mesh.scheduler.reports()) > 10)
    child = child_of(tmp_path)
    (grandchild,) = child.children()

    trainer.process.kill()
    await assert_eventually(lambda: is_gone(child))
    assert list((tmp_path / "data" / "jobs").iterdir())

    again = await start_trainer("normal")
    await again.address()
    assert not list((tmp_path / "data" / "jobs").iterdir())
    assert is_gone(grandchild)
    await assert_eventually(lambda: len(mesh.scheduler.registrations) == 2)
    assert mesh.scheduler.registrations[1].worker_id == WORKER


async def test_sigterm_gives_the_job_back_at_a_checkpoint(mesh: Mesh, start_trainer: StartTrainer) -> None:
    mesh.scheduler.waiting.append(job())
    trainer = await start_trainer("obedient")
    await assert_eventually(lambda: mesh.scheduler.received and len(mesh.scheduler.reports()) > 10)

    start = time.monotonic()
    trainer.process.send_signal(signal.SIGTERM)
    assert await trainer.exit_code() == 0

    assert time.monotonic() - start < 25
    (failed,) = mesh.scheduler.failed
    assert failed.reason == training_job_pb2.STATE_REASON_PREEMPTED
    assert len(mesh.scheduler.committed) == 1


async def test_sigterm_does_not_wait_for_a_deaf_child(mesh: Mesh, start_trainer: StartTrainer, tmp_path: Path) -> None:
    mesh.scheduler.waiting.append(job())
    trainer = await start_trainer("deaf", drain_grace_seconds="1")
    await assert_eventually(lambda: mesh.scheduler.received and len(mesh.scheduler.reports()) > 10)
    child = child_of(tmp_path)

    trainer.process.send_signal(signal.SIGTERM)
    assert await trainer.exit_code(25) == 0

    assert is_gone(child)
    assert mesh.scheduler.failed[0].reason == training_job_pb2.STATE_REASON_PREEMPTED


async def test_two_trainers_do_not_share_a_data_folder(mesh: Mesh, start_trainer: StartTrainer) -> None:
    first = await start_trainer("normal")
    await first.address()

    second = await start_trainer("normal")

    assert await second.exit_code() == 1
    assert "TRAINER_DATA_DIR" in second.log.read_text()


async def test_a_wake_up_brings_a_job_long_before_the_timer(
    mesh: Mesh, start_trainer: StartTrainer, nats_server: NatsServer, jetstream: JetStream
) -> None:
    await ensure_work_queue(jetstream, "JOBS", ["jobs.v1.any", "jobs.v1.cpu"])
    await ensure_consumer(jetstream, "JOBS", "trainers-any", "jobs.v1.any")
    await ensure_consumer(jetstream, "JOBS", "trainers-cpu", "jobs.v1.cpu")
    nats = {"nats_url": nats_server.url, "nats_user": NATS_USER.name, "nats_password": NATS_USER.password}
    await start_trainer("normal", poll_seconds="60", **nats)
    await assert_eventually(lambda: mesh.scheduler.claims == 1)

    for number, subject in enumerate(("jobs.v1.cpu", "jobs.v1.any"), start=1):
        mesh.scheduler.waiting.append(job())
        await publish(jetstream, subject, b"{}", msg_id=f"job:{number}")
        await assert_eventually(lambda done=number: len(mesh.scheduler.completed) == done)

    async def is_settled() -> bool:
        return (await jetstream.context().stream_info("JOBS")).state.messages == 0

    # A wake-up that came while the trainer was busy is given back, and acknowledged once it has asked.
    await assert_eventually(is_settled)


async def test_a_dead_probe_is_told_and_does_not_end_the_trainer(mesh: Mesh, start_trainer: StartTrainer) -> None:
    trainer = await start_trainer("no_probe")
    async with open_channel(await trainer.address()) as channel:
        stub = TrainerServiceStub(channel)

        async def device() -> trainer_service_pb2.GetDeviceResponse | None:
            response = await stub.GetDevice(trainer_service_pb2.GetDeviceRequest(), metadata=mesh.auth.user())
            return None if response.probing else response

        found = await assert_eventually(device)

    assert not found.device.can_train_4bit
    assert "no driver" in found.device.four_bit_problem
    assert os.uname().machine in found.device.name or found.device.name
