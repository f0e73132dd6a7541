"""Takes what an attempt stores: checkpoints and the artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from meshkit.failpoints import failpoint
from scheduler_svc.clients.attempt_files import AttemptFiles
from scheduler_svc.domain.errors import InvalidField, StaleAttempt
from scheduler_svc.domain.files import FileSet, StoredFile, check_files
from scheduler_svc.domain.job import JobState, Progress
from scheduler_svc.domain.uploads import FilePart, Upload
from scheduler_svc.store.attempt_store import AttemptStore
from scheduler_svc.store.upload_store import UploadStore

MAX_URLS = 500
"""In one answer, of parts: whoever has PUT them asks for more."""


@dataclass(frozen=True, slots=True)
class FileStorage:
    """What files are stored with."""

    attempts: AttemptStore
    uploads: UploadStore
    files: AttemptFiles


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A file and where to PUT it: as a whole, or what is still missing of it in parts."""

    file: StoredFile
    url: str = ""
    parts: Sequence[tuple[FilePart, str]] = ()


async def prepare_files(file_set: FileSet, storage: FileStorage) -> Sequence[PreparedFile]:
    """Returns where to PUT the files; of large ones, what has not arrived yet. Raises InvalidField, StaleAttempt."""
    check_files(file_set, "files")
    await storage.attempts.check(file_set.key)
    known = await storage.uploads.find(file_set)
    prepared: list[PreparedFile] = []
    urls_left = MAX_URLS
    for file in file_set.files:
        if not storage.files.goes_in_parts(file):
            prepared.append(PreparedFile(file, storage.files.upload_url(file_set, file)))
            continue
        upload, missing = await _open_upload(file_set, file, known.get(file_set.object_name(file)), storage)
        told = missing[:urls_left]
        urls_left -= len(told)
        parts = [(part, storage.files.part_url(file_set, file, upload, part)) for part in told]
        prepared.append(PreparedFile(file, parts=parts))
    return prepared


async def commit_checkpoint(file_set: FileSet, eval_loss: float | None, storage: FileStorage) -> None:
    """Records a checkpoint whose files were PUT. Raises InvalidField, StaleAttempt, FilesIncomplete."""
    if not file_set.files:
        raise InvalidField("checkpoint.files", "must name at least one file")
    check_files(file_set, "checkpoint.files")
    await storage.attempts.check(file_set.key)
    await storage.files.publish(file_set, await storage.uploads.find(file_set))
    await failpoint("checkpoint.files_verified")
    await storage.attempts.commit_checkpoint(file_set, eval_loss)
    await failpoint("checkpoint.after_commit")


async def complete_attempt(
    file_set: FileSet, progress: Progress | None, storage: FileStorage, early_end: str = ""
) -> JobState:
    """Publishes the artifact and ends the attempt; returns COMPLETED, or STOPPED after a stop. May be repeated.

    `early_end` says why it ended before its last step; empty when it did not.

    Raises:
        InvalidField: the files are not good, or there are none and nobody asked to stop.
        StaleAttempt: the attempt is fenced.
        FilesIncomplete: a file is missing or differs.
    """
    key = file_set.key
    check_files(file_set, "files")
    status = await storage.attempts.status(key)
    if status.is_effective:
        if not file_set.files and status.state is not JobState.STOPPING:
            raise InvalidField("files", "may be empty only after an order to stop")
        if file_set.files:
            await storage.files.publish(file_set, await storage.uploads.find(file_set))
            await failpoint("complete.files_verified")
    elif not status.ended_by_trainer:
        raise StaleAttempt(key.job_id, key.attempt)
    state = await storage.attempts.complete(file_set, progress, early_end)
    await failpoint("complete.after_commit")
    structlog.get_logger().info("attempt.completed", job_id=key.job_id, attempt=key.attempt, state=state)
    return state


async def _open_upload(
    file_set: FileSet, file: StoredFile, known: Upload | None, storage: FileStorage
) -> tuple[Upload, Sequence[FilePart]]:
    """The upload that a file goes on with, and what it still misses; a new one where there is none to go on with."""
    while True:
        if known is not None:
            missing = await storage.files.missing_parts(file_set, file, known) if known.is_of(file) else None
            if missing is not None:
                return known, missing
            await storage.uploads.forget(file_set, file, known)
            await storage.files.abort(file_set, file, known)
        begun = await storage.files.begin_upload(file_set, file)
        await failpoint("upload.begun")
        if await _is_recorded(file_set, file, begun, storage):
            return begun, begun.parts
        # Another call was quicker, and its upload is the one to go on with.
        known = (await storage.uploads.find(file_set)).get(file_set.object_name(file))


async def _is_recorded(file_set: FileSet, file: StoredFile, begun: Upload, storage: FileStorage) -> bool:
    is_recorded = False
    try:
        is_recorded = await storage.uploads.record(file_set, file, begun)
    finally:
        if not is_recorded:
            await storage.files.abort(file_set, file, begun)
    return is_recorded
