"""Bring an attempt's files into the object store."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from meshkit.cancellation import cancel_all
from meshkit.failpoints import failpoint
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.transfers import Transfers
from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.errors import StorageUnavailableError, UrlExpiredError
from trainer_svc.domain.materialisation import safe_path
from trainer_svc.usecases.live_attempt import LiveAttempt

_Put = Callable[[], Awaitable[None]]
_PARALLEL = 4
_ROUNDS = 3
"""In a row that bring no part nearer."""


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
    """PUTs `files` of `folder` where the scheduler says; large ones in parts, those that arrived before left out.

    Raises:
        StorageUnavailableError: the store does not take them.
        AttemptFencedError, SchedulerUnavailableError, CredentialRefusedError, CallRefusedError.
    """
    for file in files:
        safe_path(file.path)
    asked: Sequence[RemoteFile] = files
    rounds_left, tried = _ROUNDS, set[tuple[str, int]]()
    while asked:
        prepared = await scheduler.prepare_files(attempt.grant, asked, checkpoint_step)
        if {file.path for file in prepared} != {file.path for file in asked}:
            raise StorageUnavailableError("the scheduler prepared other files than were asked for")
        await failpoint("trainer.files.prepared")
        missing = {(file.path, part.number) for file in prepared for part in file.parts}
        rounds_left = rounds_left - 1 if missing <= tried else _ROUNDS - 1
        tried |= missing
        try:
            await _put_all(folder, prepared, transfers)
        except UrlExpiredError:
            # 15 minutes were not enough for all of them: fresh URLs, and once more.
            if not rounds_left:
                raise
            continue
        if missing and not rounds_left:
            raise StorageUnavailableError(f"{len(missing)} parts were sent and have not arrived")
        # What went as a whole is there; of what goes in parts, the scheduler says whether more is to come.
        incomplete = {file.path for file in prepared if file.parts}
        asked = [file for file in asked if file.path in incomplete]


async def _put_all(folder: Path, files: Sequence[RemoteFile], transfers: Transfers) -> None:
    slots = asyncio.Semaphore(_PARALLEL)

    async def put(upload: _Put) -> None:
        async with slots:
            await upload()

    tasks = [asyncio.create_task(put(upload)) for upload in _uploads(folder, files, transfers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel_all(*tasks)


def _uploads(folder: Path, files: Sequence[RemoteFile], transfers: Transfers) -> Iterator[_Put]:
    for file in files:
        if file.url:
            yield functools.partial(transfers.upload, folder / file.path, file)
        for part in file.parts:
            yield functools.partial(transfers.upload_part, folder / file.path, file, part)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
