"""Who has the device's memory: a job that trains, before anybody's question."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Literal, NoReturn

import psutil
import structlog

from trainer_svc.domain.device import Device, DeviceClass
from trainer_svc.domain.errors import DeviceUnfitError, InferenceBusyError, InferenceInterruptedError
from trainer_svc.usecases.inference_host import AskedModel, InferenceHost
from trainer_svc.usecases.live_attempt import LiveAttempts
from trainer_svc.usecases.probe_device import DeviceProbe
from trainer_svc.usecases.take_turns import Turns

DuringTraining = Literal["auto", "always", "never"]
"""Whether a model may be loaded for questions while a job trains; `auto`: where memory is plentiful and shared."""

_RETRY = timedelta(seconds=30)
_WATCH_SECONDS = 1.0
_BESIDE_FACTOR = 2
"""Memory that is plentiful, in multiples of the model's files: room for the model and for a job that trains it."""
_FLOOR_BYTES = 512 * 1024 * 1024
"""Memory that must be left over whatever runs."""
_PROCESS_BYTES = 512 * 1024 * 1024
"""What the libraries of an inference process take before it has loaded anything."""
_FOUR_BIT_SHARE = 0.35
"""Of a 16-bit model's files: the weights in 4 bits, with their scales and what stays in 16."""

FreeMemory = Callable[[], int]


def free_host_memory() -> int:
    """Bytes that programs can still take on this machine."""
    return int(psutil.virtual_memory().available)


class TrainingFirst:
    """Lets questions use the device as long as no job wants it, and cuts them when one does."""

    def __init__(
        self,
        host: InferenceHost,
        turns: Turns,
        live: LiveAttempts,
        probe: DeviceProbe,
        during_training: DuringTraining = "auto",
        free_memory: FreeMemory = free_host_memory,
    ) -> None:
        self._host = host
        self._turns = turns
        self._live = live
        self._probe = probe
        self._during_training = during_training
        self._free_memory = free_memory
        self._answer: asyncio.Timeout | None = None
        """What the answer under way can be cut by."""
        self._is_clearing = False
        self._gone = asyncio.Event()

    def check_room(self, base: AskedModel) -> None:
        """Says whether a question to `base` may be answered now.

        Raises:
            InferenceBusyError: a job trains, and both would not fit for certain.
            DeviceUnfitError: the model is larger than this machine.
        """
        if self._is_clearing:
            raise _training_begins()
        is_loaded = self._host.has_loaded(base)
        if not is_loaded:
            _check_size(base, self._probe.device)
        if self._live.is_empty or self._during_training == "always":
            return
        # A job that runs has its memory already: beside it a loaded model needs no more than the floor.
        if self._during_training == "never" or not self._fits(0 if is_loaded else _BESIDE_FACTOR * base.size_bytes):
            raise InferenceBusyError("a job is training on this device", _RETRY)

    @contextlib.asynccontextmanager
    async def yielding(self) -> AsyncIterator[None]:
        """Holds an answer that a job may cut at any moment. Only whoever has the turn may be in it.

        Raises:
            InferenceBusyError: a job took the memory.
        """
        self._gone.clear()
        try:
            async with asyncio.timeout(None) as self._answer:
                yield
        except (TimeoutError, InferenceInterruptedError) as error:
            if self._is_clearing:
                raise _training_begins() from error
            raise
        finally:
            self._answer = None
            self._gone.set()

    async def make_room(self) -> None:
        """Before a job starts: ends the inference process, and an answer under way with it where memory is scarce."""
        if not self._turns.is_taken:
            await self._host.stop()
        elif not self._may_stay():
            await self._cut("a job begins")

    async def watch(self) -> NoReturn:
        """Ends answers beside a job that grows more than was foreseen; watches for ever."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._live.is_empty or self._host.loaded_base is None or self._during_training == "always":
                continue
            if self._free_memory() < _FLOOR_BYTES:
                await self._cut("memory runs out beside a job")

    def _may_stay(self) -> bool:
        base = self._host.loaded_base
        if self._during_training != "auto":
            return self._during_training == "always"
        return base is not None and self._fits(_BESIDE_FACTOR * base.size_bytes)

    def _fits(self, needed_bytes: int) -> bool:
        device = self._probe.device
        is_shared = device is not None and device.device_class is DeviceClass.CPU
        return is_shared and self._free_memory() > _FLOOR_BYTES + needed_bytes

    async def _cut(self, why: str) -> None:
        if self._is_clearing:
            await self._gone.wait()
            return
        structlog.get_logger().info("inference.cut", why=why)
        self._is_clearing = True
        try:
            if self._answer is not None:
                self._answer.reschedule(asyncio.get_running_loop().time())
                # First the process: an answer that it does not let go of would hold up the job.
                await self._host.stop()
                await self._gone.wait()
            await self._host.stop()
        finally:
            self._is_clearing = False


def _check_size(base: AskedModel, device: Device | None) -> None:
    share = _FOUR_BIT_SHARE if base.quantization.get("bits") == 4 else 1.0
    needed = int(share * base.size_bytes) + _PROCESS_BYTES
    if device is not None and device.memory_bytes and needed > device.memory_bytes:
        raise DeviceUnfitError(
            f"this model takes about {needed / 1024**3:.1f} GiB to answer and this trainer has "
            f"{device.memory_bytes / 1024**3:.1f}; ask a trainer with more memory"
        )


def _training_begins() -> InferenceBusyError:
    return InferenceBusyError("a job has taken this device's memory", _RETRY)
