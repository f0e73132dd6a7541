"""Find the newest checkpoint that is whole, and put it where the training library goes on from."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import structlog

from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.domain.attempt import RemoteCheckpoint
from trainer_svc.domain.errors import (
    CallRefusedError,
    CheckpointDamagedError,
    DigestMismatchError,
    FileGoneError,
    UnsafePathError,
    UrlExpiredError,
)
from trainer_svc.qlora.folder_files import is_whole
from trainer_svc.usecases.content_cache import ContentCache
from trainer_svc.usecases.live_attempt import LiveAttempt

_CHECKPOINTS = Path("out", "checkpoints")


class CheckpointRestorer:
    """Goes from the newest checkpoint to ever older ones: one that is damaged must not cost the steps before it."""

    def __init__(self, attempt: LiveAttempt, folder: Path, scheduler: SchedulerClient, cache: ContentCache) -> None:
        """`folder` is the job's."""
        self._attempt = attempt
        self._folder = folder / _CHECKPOINTS
        self._scheduler = scheduler
        self._cache = cache
        self._candidate = attempt.claim.checkpoint
        self._problem = ""

    @property
    def has_candidate(self) -> bool:
        """Whether there is a checkpoint that was not given up."""
        return self._candidate is not None

    def refuse(self, problem: str) -> None:
        """Says that the training library cannot go on from what was restored: `restore` goes to the next older one."""
        self._problem = problem

    async def restore(self) -> None:
        """Makes the newest whole checkpoint, of those not given up yet, the only one that the job goes on from.

        May be repeated. Without any the job begins at step 0.

        Raises:
            StorageUnavailableError, SchedulerUnavailableError, CredentialRefusedError: it cannot be had now, which says
                nothing about the checkpoint.
            AttemptFencedError.
        """
        while (candidate := self._candidate) is not None:
            # What lies there was given up, or is the rest of a try that was broken off.
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            if self._problem:
                self._candidate = await self._next_older(candidate)
                self._problem = ""
                continue
            try:
                await self._fetch(candidate, self._folder / f"step-{candidate.step:08d}")
                return
            except (DigestMismatchError, FileGoneError, CheckpointDamagedError, UnsafePathError) as error:
                self._problem = str(error)

    async def _next_older(self, refused: RemoteCheckpoint) -> RemoteCheckpoint | None:
        try:
            older = await self._scheduler.find_checkpoint(self._attempt.grant, refused)
        except CallRefusedError as error:
            structlog.get_logger().error("checkpoint.not_found", job_id=self._attempt.claim.job_id, cause=str(error))
            older = None
        then = "beginning at step 0" if older is None else f"trying that of step {older.step}"
        self._attempt.log("warning", f"the checkpoint of step {refused.step} cannot be used ({self._problem}): {then}")
        structlog.get_logger().warning(
            "checkpoint.passed_over", job_id=self._attempt.claim.job_id, step=refused.step, cause=self._problem
        )
        return older

    async def _fetch(self, checkpoint: RemoteCheckpoint, target: Path) -> None:
        try:
            await self._cache.restore_folder(checkpoint.files, target)
        except UrlExpiredError:
            fresh = await self._renewed(checkpoint)
            await self._cache.restore_folder(fresh.files, target)
        if not await asyncio.to_thread(is_whole, target):
            raise CheckpointDamagedError("it is not what its manifest says")

    async def _renewed(self, checkpoint: RemoteCheckpoint) -> RemoteCheckpoint:
        """The same checkpoint with fresh URLs."""
        older_than = RemoteCheckpoint(checkpoint.step + 1, (), checkpoint.attempt)
        fresh = await self._scheduler.find_checkpoint(self._attempt.grant, older_than)
        if fresh is None or (fresh.attempt, fresh.step) != (checkpoint.attempt, checkpoint.step):
            raise FileGoneError("it is not there any more")
        return fresh
