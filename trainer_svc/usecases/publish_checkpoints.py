"""Publish checkpoints beside the training, the newest only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path

import structlog

from meshkit.failpoints import failpoint
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.transfers import Transfers
from trainer_svc.domain.attempt import RemoteFile, SavedCheckpoint
from trainer_svc.domain.backoff import Backoff
from trainer_svc.domain.errors import (
    AttemptFencedError,
    CallRefusedError,
    CheckpointDamagedError,
    CredentialRefusedError,
    FilesIncompleteError,
    SchedulerUnavailableError,
    StorageUnavailableError,
)
from trainer_svc.qlora.folder_files import MANIFEST, is_whole
from trainer_svc.usecases.live_attempt import LiveAttempt
from trainer_svc.usecases.publish_files import describe_folder, publish_files

_PASSING = (SchedulerUnavailableError, StorageUnavailableError, FilesIncompleteError, CredentialRefusedError)
_LASTING = (CheckpointDamagedError, CallRefusedError, OSError)


class CheckpointPublisher:
    """Takes checkpoints as they are saved; while one is on its way, of those that come only the newest waits."""

    def __init__(self, attempt: LiveAttempt, folder: Path, scheduler: SchedulerClient, transfers: Transfers) -> None:
        """`folder`: where copies (hard links) are kept until they are published, for the child deletes old ones."""
        self._attempt = attempt
        self._folder = folder
        self._scheduler = scheduler
        self._transfers = transfers
        self._newest: SavedCheckpoint | None = None
        self._sending: SavedCheckpoint | None = None
        self._troubled_step: int | None = None
        self._faulty_step: int | None = None
        self._copies = 0
        self._arrived = asyncio.Event()

    def offer(self, saved: SavedCheckpoint) -> None:
        """Takes a checkpoint that was just saved; returns at once."""
        manifest = _manifest(saved.folder)
        if self._newest is not None and manifest is not None and manifest == _manifest(self._newest.folder):
            # A stop keeps the step that was just done, and it waits already.
            return
        self._copies += 1
        copy = self._folder / f"{saved.step:08d}-{self._copies}"
        try:
            shutil.copytree(saved.folder, copy, copy_function=os.link, dirs_exist_ok=False)
        except (OSError, shutil.Error) as error:
            structlog.get_logger().warning("checkpoint.not_copied", step=saved.step, cause=type(error).__name__)
            return
        if self._newest is not None and self._newest is not self._sending:
            shutil.rmtree(self._newest.folder, ignore_errors=True)
        self._newest = SavedCheckpoint(saved.step, copy, saved.eval_loss)
        # After an order to stop the adapter goes first: `finish` publishes this one.
        if not self._attempt.stop_ordered.is_set():
            self._arrived.set()

    async def run(self) -> None:
        """Publishes what is offered, for ever; in troubles that may pass it tries again while nothing newer comes.

        Raises:
            AttemptFencedError.
        """
        backoff = Backoff(first=0.5, longest=30.0)
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if await self._publish_newest():
                backoff.reset()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.next_delay()):
                    await self._arrived.wait()
            self._arrived.set()

    async def finish(self, seconds: float) -> None:
        """Publishes what `run`, which must have ended, left unpublished; gives up after `seconds`.

        Raises:
            AttemptFencedError.
        """
        backoff = Backoff(first=0.3, longest=3.0)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if await self._publish_newest():
                        return
                    await asyncio.sleep(backoff.next_delay())
        except TimeoutError:
            if self._newest is not None:
                self._warn(self._newest.step, f"there were {seconds:.1f} s for it")
                self._newest = None

    async def _publish_newest(self) -> bool:
        """Whether nothing waits any more. A checkpoint that cannot be published is only worth a warning."""
        saved = self._sending = self._newest
        if saved is None:
            return True
        is_settled = True
        try:
            await self._publish(saved)
        except _LASTING as error:
            self._warn(saved.step, str(error))
        except _PASSING as error:
            is_settled = False
            if self._troubled_step != saved.step:
                self._troubled_step = saved.step
                self._warn(saved.step, f"{error}; it is tried again")
        except AttemptFencedError:
            raise
        # The edge of a checkpoint: a fault of ours costs this one, and not the training that goes well without it.
        # Tried once more, for it may be the last, and all that a job that is given back goes on from.
        except Exception as error:
            structlog.get_logger().exception("checkpoint.broken", job_id=self._attempt.claim.job_id, step=saved.step)
            is_settled = self._faulty_step == saved.step
            self._faulty_step = saved.step
            next_try = "" if is_settled else "; it is tried once more"
            words = f"a fault of the trainer: {type(error).__name__}; the operator finds it in its log"
            self._warn(saved.step, words + next_try)
        finally:
            self._sending = None
            if self._newest is not saved:
                shutil.rmtree(saved.folder, ignore_errors=True)
        if is_settled and self._newest is saved:
            self._newest = None
            shutil.rmtree(saved.folder, ignore_errors=True)
        return is_settled

    async def _publish(self, saved: SavedCheckpoint) -> None:
        files = await asyncio.to_thread(_whole_files, saved.folder)
        await publish_files(
            self._attempt,
            saved.folder,
            files,
            scheduler=self._scheduler,
            transfers=self._transfers,
            checkpoint_step=saved.step,
        )
        await failpoint("trainer.checkpoint.uploaded")
        await self._scheduler.commit_checkpoint(self._attempt.grant, saved.step, files, saved.eval_loss)
        structlog.get_logger().info("checkpoint.published", job_id=self._attempt.claim.job_id, step=saved.step)

    def _warn(self, step: int, cause: str) -> None:
        structlog.get_logger().warning(
            "checkpoint.not_published", job_id=self._attempt.claim.job_id, step=step, cause=cause
        )
        self._attempt.log("warning", f"the checkpoint of step {step} could not be published: {cause}")


def _manifest(folder: Path) -> bytes | None:
    """What tells a checkpoint from every other; None of one that is broken: it is like none."""
    with contextlib.suppress(OSError):
        return (folder / MANIFEST).read_bytes()
    return None


def _whole_files(folder: Path) -> tuple[RemoteFile, ...]:
    """The checkpoint's files: what counts later must be what the training process wrote."""
    if not is_whole(folder):
        raise CheckpointDamagedError("it is not on the disk any more as it was written")
    return describe_folder(folder)
