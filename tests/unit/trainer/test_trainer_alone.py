"""A trainer whose scheduler cannot be reached says so, whether it has ever got in or not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from meshkit.testing import assert_eventually
from trainer_svc import metrics
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.domain.attempt import JobClaim
from trainer_svc.domain.device import Device, DeviceClass
from trainer_svc.domain.limits import AttemptLimits
from trainer_svc.usecases.keep_attached import keep_attached
from trainer_svc.usecases.live_attempt import LiveAttempt
from trainer_svc.usecases.register_worker import WorkerIdentity, WorkerRegistration

NOBODY = "127.0.0.1:1"
DEVICE = Device(DeviceClass.CPU, "a processor", 8 * 10**9, True)


@pytest.fixture(autouse=True)
def not_asked_yet() -> None:
    metrics.SCHEDULER_REACHED.set(math.nan)


async def _told_of(work: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(work)
    try:
        await assert_eventually(lambda: metrics.REGISTRY.get_sample_value("reeltune_trainer_scheduler_reached") == 0)
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_it_never_got_in(tmp_path: Path) -> None:
    async def register() -> None:
        async with grpc.aio.insecure_channel(NOBODY) as channel:
            identity = WorkerIdentity("t", "secret", "1", frozenset(), tmp_path / "id")
            await _told_of(WorkerRegistration(SchedulerClient(channel), identity).keep(DEVICE))

    asyncio.run(register())


def test_it_is_in_the_middle_of_a_job_and_asks_for_none() -> None:
    async def attach() -> None:
        async with grpc.aio.insecure_channel(NOBODY) as channel:
            attempt = LiveAttempt(JobClaim("job", 1, "owner", "model", "dataset", {}, grant="grant"))
            await _told_of(keep_attached(attempt, SchedulerClient(channel), AttemptLimits()))

    asyncio.run(attach())
