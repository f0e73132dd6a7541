"""Be known to the scheduler: register, keep the worker's id, and register again in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import structlog

from trainer_svc import metrics
from trainer_svc.clients.scheduler import Registration, SchedulerClient
from trainer_svc.domain.attempt import Recipe
from trainer_svc.domain.backoff import Backoff
from trainer_svc.domain.device import Device
from trainer_svc.domain.errors import (
    AttemptFencedError,
    CallRefusedError,
    CredentialRefusedError,
    FilesIncompleteError,
    SchedulerUnavailableError,
)

_WORKER_ID = re.compile(r"wrk_[0-9A-Z]{26}")
_MARGIN_SECONDS = 120.0
_SHORTEST_SECONDS = 5.0
_REFUSED = (CallRefusedError, CredentialRefusedError, AttemptFencedError, FilesIncompleteError)


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """What a trainer says of itself."""

    name: str
    join_secret: str = field(repr=False)
    version: str
    recipes: frozenset[Recipe]
    id_file: Path
    """Where the worker's id is kept from one start to the next."""


class WorkerRegistration:
    """The trainer's standing with the scheduler."""

    def __init__(self, scheduler: SchedulerClient, identity: WorkerIdentity) -> None:
        self._scheduler = scheduler
        self._identity = identity
        self._registration: Registration | None = None
        self._registered = asyncio.Event()
        self._wanted = asyncio.Event()
        self.worker_id = _read_id(identity.id_file)

    async def token(self) -> str:
        """The worker token; waits for the first one."""
        await self._registered.wait()
        assert self._registration is not None
        return self._registration.token

    def renew(self) -> None:
        """Has it register again now: the token is refused, or the scheduler was away and may have forgotten."""
        self._wanted.set()

    async def keep(self, device: Device) -> NoReturn:
        """Registers, and again before each token ends, for ever."""
        backoff = Backoff(first=0.3, longest=15.0)
        while True:
            self._wanted.clear()
            try:
                await self._register(device)
            except SchedulerUnavailableError as error:
                # Told here for who has never got in, and so has never asked. 1 is for claims and heartbeats to say:
                # a scheduler that takes registrations may refuse all else.
                metrics.SCHEDULER_REACHED.set(0)
                if backoff.failures == 0:
                    structlog.get_logger().warning("worker.not_registered", cause=str(error))
                await asyncio.sleep(backoff.next_delay())
                continue
            except _REFUSED as error:
                metrics.SCHEDULER_REACHED.set(0)
                self._on_refusal(error)
                await asyncio.sleep(max(2.0, backoff.next_delay()))
                continue
            backoff.reset()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_to_renewal()):
                    await self._wanted.wait()

    async def _register(self, device: Device) -> None:
        identity = self._identity
        registration = await self._scheduler.register(
            join_secret=identity.join_secret,
            worker_id=self.worker_id,
            name=identity.name,
            device=device,
            version=identity.version,
            recipes=identity.recipes,
        )
        if registration.worker_id != self.worker_id:
            self.worker_id = registration.worker_id
            try:
                await asyncio.to_thread(_write_id, identity.id_file, registration.worker_id)
            except OSError as error:
                # Worth a new id at the next start, and not this trainer's life.
                structlog.get_logger().warning("worker.id_not_kept", cause=error.strerror)
        self._registration = registration
        self._registered.set()
        structlog.get_logger().info("worker.registered", worker_id=registration.worker_id)

    def _on_refusal(self, error: Exception) -> None:
        structlog.get_logger().error("worker.refused", worker_id=self.worker_id, cause=str(error))
        # A scheduler with another database does not know our id: it may give us a new one.
        if isinstance(error, CallRefusedError) and self.worker_id:
            self.worker_id = ""

    def _seconds_to_renewal(self) -> float:
        assert self._registration is not None
        left = (self._registration.expire_time - datetime.now(UTC)).total_seconds()
        return max(_SHORTEST_SECONDS, min(left - _MARGIN_SECONDS, left / 2))


def _read_id(file: Path) -> str:
    try:
        worker_id = str(json.loads(file.read_bytes())["worker_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return worker_id if _WORKER_ID.fullmatch(worker_id) else ""


def _write_id(file: Path, worker_id: str) -> None:
    building = file.with_suffix(".new")
    building.write_text(json.dumps({"worker_id": worker_id}))
    building.replace(file)
