"""Bring an attempt's files into the object store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.transfers import Transfers
from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.errors import StorageUnavailableError, UrlExpiredError
from trainer_svc.domain.materialisation import safe_path
from trainer_svc.usecases.live_attempt import LiveAttempt

_PARALLEL = 4
_ROUNDS = 3


def describe_folder(folder: Path) -> tuple[RemoteFile, ...]:
    """Path, size and digest of every file in `folder`, as they are on the disk now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(RemoteFile(file.relative_to(folder).as_posix(), file.stat().st_size, _sha256(file)) for file in files)


async def publish_files(
    attempt: LiveAttempt,
    folder: Path,
    files: Sequence[RemoteFile],
    *,
    scheduler: SchedulerClient,
    transfers: Transfers,
    checkpoint_step: int | None = None,
) -> None:
    """PUTs `files` of `folder` where the scheduler says.

    Raises:
        StorageUnavailableError: the store does not take them.
        AttemptFencedError, SchedulerUnavailableError, CredentialRefusedError, CallRefusedError.
    """
    for file in files:
        safe_path(file.path)
    for rounds_left in reversed(range(_ROUNDS)):
        prepared = await scheduler.prepare_files(attempt.grant, files, checkpoint_step)
        if {file.path for file in prepared} != {file.path for file in files}:
            raise StorageUnavailableError("the scheduler prepared other files than were asked for")
        try:
            await _put_all(folder, prepared, transfers)
            break
        except UrlExpiredError:
            # 15 minutes were not enough for all of them: fresh URLs, and once more.
            if not rounds_left:
                raise


async def _put_all(folder: Path, files: Sequence[RemoteFile], transfers: Transfers) -> None:
    slots = asyncio.Semaphore(_PARALLEL)

    async def put(file: RemoteFile) -> None:
        async with slots:
            await transfers.upload(folder / file.path, file)

    tasks = [asyncio.create_task(put(file)) for file in files]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
