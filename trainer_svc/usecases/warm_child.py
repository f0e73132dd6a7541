"""Keeps the training process of a completed job for the next one of its owner: imports and base model are there."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from meshkit.cancellation import cancel_all
from trainer_svc.child.process import ChildProcess
from trainer_svc.domain.attempt import JobClaim, Recipe
from trainer_svc.qlora.messages import Idle, MessageError, Train

SpawnWarm = Callable[[Path], Awaitable[ChildProcess]]
"""Starts, in a folder of its own, a child that takes jobs."""
_CLEARING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Kept:
    child: ChildProcess
    owner_id: str
    is_ready: asyncio.Task[bool]
    since: float = field(default_factory=time.monotonic)


class WarmChild:
    """Keeps at most one training process. What one owner's files have made of a process never meets another's."""

    def __init__(self, spawn: SpawnWarm, folder: Path, idle_seconds: float) -> None:
        """`folder`: where the processes have their folders; `idle_seconds`: how long one is kept unused, 0: not at
        all."""
        self._spawn = spawn
        self._folder = folder
        self._idle_seconds = idle_seconds
        self._kept: _Kept | None = None
        self._folders: dict[int, Path] = {}

    @property
    def keeps_any(self) -> bool:
        return self._idle_seconds > 0

    def takes(self, claim: JobClaim) -> bool:
        """Whether a job is one for such a process: on one device. Several have processes of their own."""
        return self.keeps_any and claim.recipe is Recipe.QLORA and claim.device_count == 1

    async def launch(self, job: Path, claim: JobClaim) -> ChildProcess:
        """A process that trains the job in that folder: the one that is kept, if it is the same owner's."""
        child = await self._take(claim.owner_id)
        if child is None:
            folder = self._folder / secrets.token_hex(8)
            await asyncio.to_thread(folder.mkdir, parents=True)
            child = await self._spawn(folder)
            self._folders[child.pid] = folder
        else:
            structlog.get_logger().info("child.warm", pid=child.pid, job_id=claim.job_id)
            child.forget_lines()
        await child.send(Train(str(job)))
        return child

    def keep(self, child: ChildProcess, claim: JobClaim) -> None:
        """Takes back a process whose job has made an adapter; it is used again only when it says that nothing of the
        job is left in it."""
        self._kept = _Kept(child, claim.owner_id, asyncio.create_task(_says_idle(child), name="warm-child"))

    async def discard(self, child: ChildProcess) -> None:
        """Ends a process that must not be used again."""
        await child.kill()
        if folder := self._folders.pop(child.pid, None):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def drop(self) -> None:
        """Ends the process that is kept, if there is one, and has its memory back."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await cancel_all(kept.is_ready)
            await self.discard(kept.child)
            structlog.get_logger().info("child.warm_ended", pid=kept.child.pid)

    async def drop_when_idle(self) -> None:
        """Ends a process that no job has come for; watches for ever."""
        while True:
            await asyncio.sleep(max(0.05, self._idle_seconds / 10))
            kept = self._kept
            if kept is not None and time.monotonic() - kept.since > self._idle_seconds:
                await self.drop()

    async def _take(self, owner_id: str) -> ChildProcess | None:
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        is_ready = False
        try:
            if kept.owner_id == owner_id:
                async with asyncio.timeout(_CLEARING_SECONDS):
                    is_ready = await kept.is_ready and kept.child.is_running
        except TimeoutError:
            structlog.get_logger().warning("child.not_cleared", pid=kept.child.pid)
        finally:
            if not is_ready:
                kept.is_ready.cancel()
                await self.discard(kept.child)
        return kept.child if is_ready else None


async def _says_idle(child: ChildProcess) -> bool:
    try:
        while (message := await child.receive()) is not None:
            if isinstance(message, Idle):
                return True
    except MessageError:
        structlog.get_logger().warning("child.spoke_nonsense", pid=child.pid)
    return False
