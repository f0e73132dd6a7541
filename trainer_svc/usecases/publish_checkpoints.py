"""Publish checkpoints beside the training, the newest only."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import structlog

from meshkit.failpoints import failpoint
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.transfers import Transfers
from trainer_svc.domain.errors import (
    CallRefusedError,
    CredentialRefusedError,
    FilesIncompleteError,
    SchedulerUnavailableError,
    StorageUnavailableError,
)
from trainer_svc.usecases.live_attempt import LiveAttempt
from trainer_svc.usecases.publish_files import describe_folder, publish_files

_BEARABLE = (
    SchedulerUnavailableError,
    StorageUnavailableError,
    FilesIncompleteError,
    CredentialRefusedError,
    CallRefusedError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class _Saved:
    step: int
    copy: Path


class CheckpointPublisher:
    """Takes checkpoints as they are saved; while one is on its way, of those that come only the newest waits."""

    def __init__(self, attempt: LiveAttempt, folder: Path, scheduler: SchedulerClient, transfers: Transfers) -> None:
        """`folder`: where copies (hard links) are kept until they are published, for the child deletes old ones."""
        self._attempt = attempt
        self._folder = folder
        self._scheduler = scheduler
        self._transfers = transfers
        self._waiting: _Saved | None = None
        self._arrived = asyncio.Event()
        self.published_step: int | None = None
        """Step of the newest checkpoint that counts."""

    def offer(self, step: int, checkpoint: Path) -> None:
        """Takes a checkpoint that was just saved; returns at once."""
        copy = self._folder / f"{step:08d}"
        try:
            shutil.copytree(checkpoint, copy, copy_function=os.link, dirs_exist_ok=False)
        except (OSError, shutil.Error) as error:
            structlog.get_logger().warning("checkpoint.not_copied", step=step, cause=type(error).__name__)
            return
        if self._waiting is not None:
            shutil.rmtree(self._waiting.copy, ignore_errors=True)
        self._waiting = _Saved(step, copy)
        self._arrived.set()

    async def run(self) -> None:
        """Publishes what is offered, for ever. A checkpoint that cannot be published is only worth a warning.

        Raises:
            AttemptFencedError.
        """
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            saved, self._waiting = self._waiting, None
            if saved is None:
                continue
            try:
                await self.publish(saved.step, saved.copy)
            except _BEARABLE as error:
                structlog.get_logger().warning(
                    "checkpoint.not_published", job_id=self._attempt.claim.job_id, step=saved.step, cause=str(error)
                )
                self._attempt.log("warning", f"the checkpoint of step {saved.step} could not be published: {error}")
            finally:
                shutil.rmtree(saved.copy, ignore_errors=True)

    async def publish(self, step: int, checkpoint: Path) -> None:
        """Publishes one checkpoint and makes it count."""
        files = await asyncio.to_thread(describe_folder, checkpoint)
        await publish_files(
            self._attempt,
            checkpoint,
            files,
            scheduler=self._scheduler,
            transfers=self._transfers,
            checkpoint_step=step,
        )
        await failpoint("trainer.checkpoint.uploaded")
        await self._scheduler.commit_checkpoint(self._attempt.grant, step, files)
        self.published_step = step
        structlog.get_logger().info("checkpoint.published", job_id=self._attempt.claim.job_id, step=step)
