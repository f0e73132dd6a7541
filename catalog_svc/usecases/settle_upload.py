"""The second half of every upload: verify the stored bytes, put them under their digest, and only then the row."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from catalog_svc.clients.object_store import BytesMissing, Digest, ObjectStore
from catalog_svc.domain.errors import (
    CatalogError,
    DigestMismatch,
    EntryNotFound,
    LengthMismatch,
    StateConflict,
    UploadIncomplete,
    UploadNotFound,
)
from catalog_svc.domain.upload import StoredFile, Upload, UploadId, by_parent, plan_parts
from catalog_svc.store.file_batch_store import FileBatchStore, NotTogether
from catalog_svc.store.file_store import FileStore
from catalog_svc.store.garbage_store import GarbageStore
from catalog_svc.usecases import audit
from catalog_svc.usecases.each import each
from meshkit.cancellation import cancel_all
from meshkit.failpoints import failpoint

_TOGETHER_SECONDS = 1.0
"""How long the files of a batch wait for each other to be put in place by one transaction."""

_OTHERS_AT_ONCE = 2
"""Of those files of a batch that are not put in place together: each takes a connection to the database."""


@dataclass(frozen=True, slots=True)
class SettleUpload:
    """Settles uploads, each once at a time in this process."""

    files: FileStore
    batches: FileBatchStore
    garbage: GarbageStore
    objects: ObjectStore
    slots: asyncio.Semaphore
    """How many are verified at once: each holds a part in memory."""
    looks: asyncio.Semaphore
    """How many files of all batches the store is asked for at once."""
    _running: dict[UploadId, asyncio.Task[StoredFile]] = field(default_factory=dict)

    async def settle(self, upload: Upload) -> StoredFile:
        """Puts an uploaded file in place.

        The work goes on when the caller goes away: reading a large file through may take longer than a call, and the
        next call joins it.

        Raises:
            UploadIncomplete: parts are missing.
            DigestMismatch, LengthMismatch: the bytes are not the announced ones; the upload is discarded.
            EntryNotFound, StateConflict, UploadNotFound: parent or upload has gone, or takes no file any more.
        """
        task = self._running.get(upload.id)
        if task is None:
            task = self._start(upload.id, self._settle(upload))
        return await asyncio.shield(task)

    async def settle_many(self, uploads: Sequence[Upload]) -> list[StoredFile | Exception]:
        """Puts files in place that were sent straight there, each by itself but with few transactions.

        Returns files and errors in order; the errors are those of `settle`.
        """
        fresh = [upload for upload in uploads if upload.id not in self._running]
        together = asyncio.create_task(self._settle_together(fresh))
        for upload in fresh:
            self._start(upload.id, _outcome_of(upload.id, together))
        running = [self._running[upload.id] for upload in uploads]
        return await each(asyncio.shield, running)

    async def close(self) -> None:
        """Cancels what is under way; what is not committed then never happened."""
        await cancel_all(*self._running.values())

    def _start(self, upload_id: UploadId, work: Coroutine[None, None, StoredFile]) -> asyncio.Task[StoredFile]:
        task = asyncio.create_task(work, name=f"settle {upload_id}")
        self._running[upload_id] = task
        task.add_done_callback(lambda done: self._forget(upload_id, done))
        return task

    def _forget(self, upload_id: UploadId, done: asyncio.Task[StoredFile]) -> None:
        self._running.pop(upload_id, None)
        if not done.cancelled():
            done.exception()  # whoever still waits gets it; should nobody, it was their upload and they will ask again

    async def _settle(self, upload: Upload) -> StoredFile:
        try:
            digest = await self._arrived(upload) if upload.is_direct else await self._verified(upload)
        except BytesMissing:
            # Another replica may have finished it a moment ago.
            return await self._finished_elsewhere(upload)
        return await self._checked(upload, digest)

    async def _checked(self, upload: Upload, digest: Digest) -> StoredFile:
        header = upload.header
        if digest.sha256 != header.sha256:
            await self._discard(upload)
            raise DigestMismatch(header.path, header.sha256, digest.sha256)
        if digest.size_bytes != header.size_bytes:
            await self._discard(upload)
            raise LengthMismatch(header.path, header.size_bytes, digest.size_bytes)
        await failpoint("upload.stored")
        return await self._commit(upload)

    async def _commit(self, upload: Upload) -> StoredFile:
        try:
            stored = await self.files.commit(upload)
        except (EntryNotFound, StateConflict, UploadNotFound):
            # The bytes are under their digest already and nothing points to them.
            await self.files.discard_upload(upload)
            raise
        await failpoint("upload.after_commit")
        audit.record_stored(upload)
        return stored

    async def _settle_together(self, uploads: Sequence[Upload]) -> Mapping[UploadId, StoredFile | Exception]:
        outcomes: dict[UploadId, StoredFile | Exception] = {}
        async with asyncio.TaskGroup() as group:
            looks = {group.create_task(self._look(upload)): upload for upload in uploads}
            pending = set(looks)
            while pending:
                # Those of which the store is slow to tell keep no other waiting for longer.
                done, pending = await asyncio.wait(pending, timeout=_TOGETHER_SECONDS)
                found = [(upload, look.result()) for look, upload in looks.items() if look in done]
                group.create_task(self._settle_found(found, outcomes))
        return outcomes

    async def _look(self, upload: Upload) -> Digest | Exception | None:
        async with self.looks:
            try:
                return await self.objects.sent_digest(upload)
            except Exception as error:  # told as that of its file
                return error

    async def _settle_found(
        self,
        found: Sequence[tuple[Upload, Digest | Exception | None]],
        outcomes: dict[UploadId, StoredFile | Exception],
    ) -> None:
        """Puts those files in place that the store vouches for, and then sees what is the matter with the others."""
        proven = [upload for upload, look in found if look == _announced(upload)]
        if proven:
            await failpoint("upload.stored")
        for group in by_parent(proven, lambda upload: upload.header):
            outcomes |= zip([upload.id for upload in group], await self._commit_together(group), strict=True)
        missing = [upload for upload, look in found if isinstance(look, BytesMissing)]
        if missing:
            outcomes |= await self._missed_together(missing)
        turns = asyncio.Semaphore(_OTHERS_AT_ONCE)

        async def settle_other(other: tuple[Upload, Digest | Exception | None]) -> StoredFile:
            upload, look = other
            if isinstance(look, Exception):
                raise look
            async with turns:
                return await self._checked(upload, look or await self._read(upload))

        others = [(upload, look) for upload, look in found if upload.id not in outcomes]
        outcomes |= zip([upload.id for upload, _ in others], await each(settle_other, others), strict=True)

    async def _missed_together(self, uploads: Sequence[Upload]) -> dict[UploadId, StoredFile | Exception]:
        """Tells what has become of uploads of one owner whose bytes are not there, by one look at all."""
        ids = [upload.id for upload in uploads]
        try:
            current = await self.batches.get_uploads(ids, uploads[0].owner_id)
        except Exception as error:  # its place in the answer tells it
            return dict.fromkeys(ids, error)
        outcomes: dict[UploadId, StoredFile | Exception] = {}
        for upload_id in ids:
            upload = current.get(upload_id)
            outcomes[upload_id] = (upload.stored or UploadIncomplete((1,), 1)) if upload else UploadNotFound()
        return outcomes

    async def _commit_together(self, uploads: Sequence[Upload]) -> Sequence[StoredFile | Exception]:
        """Puts proven files of one parent in place: all at once, or else one after the other."""
        first = uploads[0]
        if len(uploads) > 1:
            try:
                stored = await self.batches.commit(first.header.parent_id, first.owner_id, uploads)
            except (NotTogether, CatalogError):
                pass  # some of them cannot be put in place, and which ones turns out below
            except Exception as error:
                structlog.get_logger().warning("upload.batch_split", resource=first.header.parent_id, exc_info=error)
            else:
                await failpoint("upload.after_commit")
                for upload in uploads:
                    audit.record_stored(upload)
                return stored
        return [outcome for upload in uploads for outcome in await each(self._commit, [upload])]

    async def _arrived(self, upload: Upload) -> Digest:
        """Looks at what was sent straight to its place, and reads it if the store cannot vouch for it."""
        return await self.objects.sent_digest(upload) or await self._read(upload)

    async def _read(self, upload: Upload) -> Digest:
        async with self.slots:
            return await self.objects.read_digest(upload.place)

    async def _discard(self, upload: Upload) -> None:
        """Drops an upload of other bytes than the announced ones; where these lie in the right ones' place, at once."""
        await self.files.discard_upload(upload)
        if upload.is_direct:
            async with self.garbage.unwanted(upload.place.object_key) as is_unwanted:
                if is_unwanted:
                    await self.objects.remove_content(upload.place.object_key)

    async def _verified(self, upload: Upload) -> Digest:
        async with self.slots:
            return await self._settled(upload)

    async def _settled(self, upload: Upload) -> Digest:
        if upload.multipart_id is None:
            return await self.objects.settle_small(upload)
        parts = plan_parts(upload.header.size_bytes)
        try:
            missing = await self.objects.missing_parts(upload.id, upload.multipart_id, parts)
        except BytesMissing:
            # Assembled by an earlier call that was cut afterwards: what it left is read below.
            missing = ()
        if missing:
            raise UploadIncomplete(missing, len(parts))
        await failpoint("upload.assembled")
        return await self.objects.settle_large(upload)

    async def _finished_elsewhere(self, upload: Upload) -> StoredFile:
        current = await self.files.get_upload(upload.id, upload.owner_id)
        if current.stored is not None:
            return current.stored
        if upload.multipart_id is not None:
            # The store has forgotten the parts: nothing can ever complete this upload.
            await self.files.discard_upload(upload)
            raise UploadNotFound
        raise UploadIncomplete((1,), 1)


async def _outcome_of(
    upload_id: UploadId, together: asyncio.Task[Mapping[UploadId, StoredFile | Exception]]
) -> StoredFile:
    outcome = (await together)[upload_id]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _announced(upload: Upload) -> Digest:
    return Digest(upload.header.size_bytes, upload.header.sha256)
