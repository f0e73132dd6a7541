"""Reports what a device does while a job trains on it."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import structlog

from trainer_svc import metrics
from trainer_svc.child.gauges import Gauge, open_gauge
from trainer_svc.domain.device import Device
from trainer_svc.domain.reports import MetricPoint
from trainer_svc.usecases.live_attempt import LiveAttempt


async def meter_device(attempt: LiveAttempt, pid: int, device: Device, every_seconds: float) -> NoReturn:
    """Reports the device's utilisation, temperature, power and memory, until it is cancelled.

    Reading happens in a thread of this process, so that training waits for none of it. A gauge that fails is given up,
    and the job goes on without.
    """
    try:
        emulated, count = bool(device.profile), attempt.claim.device_count
        gauge = await asyncio.to_thread(open_gauge, device.device_class, is_emulated=emulated, count=count)
        while True:
            await asyncio.sleep(every_seconds)
            await _report(attempt, pid, gauge)
    except Exception as error:  # a driver's library raises what it likes, and none of it is worth a job
        structlog.get_logger().warning("device.not_metered", cause=f"{type(error).__name__}: {error}")
    while True:
        await asyncio.Event().wait()


async def _report(attempt: LiveAttempt, pid: int, gauge: Gauge) -> None:
    values = await asyncio.to_thread(gauge.read, pid)
    metrics.show_device(values)
    # Before the first step there is no step to tell it of.
    if values and attempt.progress.step >= 1:
        attempt.report(MetricPoint(attempt.progress.step, values))
