"""The second half of every upload: verify the stored bytes, put them under their digest, and only then the row."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from catalog_svc.clients.object_store import BytesMissing, Digest, ObjectStore
from catalog_svc.domain.errors import (
    DigestMismatch,
    EntryNotFound,
    LengthMismatch,
    StateConflict,
    UploadIncomplete,
    UploadNotFound,
)
from catalog_svc.domain.upload import StoredFile, Upload, UploadId, plan_parts
from catalog_svc.store.file_store import FileStore
from catalog_svc.store.garbage_store import GarbageStore
from catalog_svc.usecases import audit
from meshkit.failpoints import failpoint


@dataclass(frozen=True, slots=True)
class SettleUpload:
    """Settles uploads, each once at a time in this process."""

    files: FileStore
    garbage: GarbageStore
    objects: ObjectStore
    slots: asyncio.Semaphore
    """How many are verified at once: each holds a part in memory."""
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
            task = asyncio.create_task(self._settle(upload), name=f"settle {upload.id}")
            self._running[upload.id] = task
            task.add_done_callback(lambda done: self._forget(upload.id, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancels what is under way; what is not committed then never happened."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, upload_id: UploadId, done: asyncio.Task[StoredFile]) -> None:
        self._running.pop(upload_id, None)
        if not done.cancelled():
            done.exception()  # whoever still waits gets it; should nobody, it was their upload and they will ask again

    async def _settle(self, upload: Upload) -> StoredFile:
        header = upload.header
        try:
            digest = await self._arrived(upload) if upload.is_direct else await self._verified(upload)
        except BytesMissing:
            # Another replica may have finished it a moment ago.
            return await self._finished_elsewhere(upload)
        if digest.sha256 != header.sha256:
            await self._discard(upload)
            raise DigestMismatch(header.path, header.sha256, digest.sha256)
        if digest.size_bytes != header.size_bytes:
            await self._discard(upload)
            raise LengthMismatch(header.path, header.size_bytes, digest.size_bytes)
        await failpoint("upload.stored")
        try:
            stored = await self.files.commit(upload)
        except (EntryNotFound, StateConflict, UploadNotFound):
            # The bytes are under their digest already and nothing points to them.
            await self.files.discard_upload(upload)
            raise
        await failpoint("upload.after_commit")
        audit.record(
            "file_stored", upload.owner_id, header.parent_kind, header.parent_id, path=header.path, sha256=header.sha256
        )
        return stored

    async def _arrived(self, upload: Upload) -> Digest:
        """Looks at what was sent straight to its place, and reads it if the store cannot vouch for it."""
        digest = await self.objects.sent_digest(upload)
        if digest is None:
            async with self.slots:
                digest = await self.objects.read_digest(upload.place)
        return digest

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
