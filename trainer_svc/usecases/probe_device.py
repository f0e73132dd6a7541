"""Find out what this machine can do, by doing it in a process that may die of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from trainer_svc.domain.device import Device, DeviceClass
from trainer_svc.domain.errors import ProbeFailedError
from trainer_svc.domain.last_words import last_words
from trainer_svc.domain.profile import Profile

_SECONDS = 180.0
_NOT_PROBED = "this trainer does not offer QLoRA: its device was not probed"


class DeviceProbe:
    """The probe's result, for whoever waits for it."""

    def __init__(self) -> None:
        self._found: asyncio.Future[Device] = asyncio.get_running_loop().create_future()

    @property
    def device(self) -> Device | None:
        """What is known of the device; None while the probe runs."""
        return self._found.result() if self._found.done() else None

    async def result(self) -> Device:
        """Waits for the probe."""
        return await asyncio.shield(self._found)

    async def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        host: Device,
        *,
        devices: int = 0,
        profile: Profile | None = None,
    ) -> None:
        """Probes; when the probe dies, the device counts as `host`, unable to train in 4 bits, with the reason.

        `devices`: how many one job may use together; 0: all there are. `profile`: what the machine stands for.
        """
        try:
            device = device_from_json(await _output(command, environment))
        except ProbeFailedError as error:
            structlog.get_logger().error("device.probe_failed", cause=str(error))
            device = replace(host, can_train_4bit=False, four_bit_problem=str(error))
        device = device.shared_by(devices)
        if profile is not None:
            device = profile.of(device)
        structlog.get_logger().info(
            "device.probed",
            device_class=device.device_class,
            device=device.name,
            memory_bytes=device.memory_bytes,
            device_count=device.device_count,
            can_train_4bit=device.can_train_4bit,
            decoder=device.decoder,
        )
        self._found.set_result(device)

    def skip(self, host: Device) -> None:
        """Takes the device for `host`, unable to train in 4 bits: nothing is going to compute on it."""
        self._found.set_result(replace(host, can_train_4bit=False, four_bit_problem=_NOT_PROBED))


async def _output(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What the probe prints. Killed when it hangs: a broken driver can hold a process for ever."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, complaints = await process.communicate()
    except TimeoutError as error:
        raise ProbeFailedError(f"the probe did not end within {_SECONDS:.0f} s") from error
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        words = last_words(complaints.decode(errors="replace").splitlines()[-20:], {}, limit=300)
        raise ProbeFailedError(f"the probe ended with code {process.returncode}: {words}")
    return output.decode(errors="replace")


def device_from_json(output: str) -> Device:
    """The device in the last line that the probe printed.

    Raises:
        ProbeFailedError: it is no such description.
    """
    try:
        found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return Device(
            device_class=DeviceClass(found["device_class"]),
            name=str(found["device_name"]),
            memory_bytes=int(found["memory_bytes"]),
            can_train_4bit=bool(found["can_4bit"]) and bool(found["decoder"]),
            four_bit_problem=found["four_bit_reason"] or ("" if found["decoder"] else found["decoder_reason"]),
            decoder=str(found["decoder"]),
            versions=dict(found["versions"]),
            device_count=int(found.get("device_count", 1)),
            driver_version=str(found.get("driver_version", "")),
            compute_types=tuple(str(each) for each in found.get("compute_dtypes", ())),
            matmul_flops=float(found.get("matmul_flops", 0.0)),
            decode_pixels_per_second=float(found.get("decode_pixels_per_second", 0.0)),
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ProbeFailedError(f"the probe's answer cannot be read: {error!r}") from error
