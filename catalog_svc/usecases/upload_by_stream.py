"""Uploads through the gRPC port: the bytes are spooled to the object store, one part in memory at a time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace

from catalog_svc import metrics
from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.clients.scheduler import Scheduler
from catalog_svc.domain.errors import DigestMismatch, LengthMismatch, UploadsBusy, UploadStalled
from catalog_svc.domain.upload import FileHeader, StoredFile, Upload, UploadId, part_length, plan_parts
from catalog_svc.store.file_store import FileStore
from catalog_svc.usecases.check_header import check_header
from catalog_svc.usecases.settle_upload import SettleUpload
from meshkit.ids import new_id


@dataclass(frozen=True, slots=True)
class UploadByStream:
    """Takes files as streams of chunks."""

    files: FileStore
    objects: ObjectStore
    settle_upload: SettleUpload
    max_file_bytes: int
    max_streams: int
    """Uploads at once: each holds up to two parts in memory."""
    stall_seconds: float
    """Longest silence of a client."""
    scheduler: Scheduler
    _running: set[UploadId] = field(default_factory=set)

    async def upload(self, owner_id: str, token: str, header: FileHeader, chunks: AsyncIterator[bytes]) -> StoredFile:
        """Puts a streamed file in place.

        A client that goes away ends the stream like one that is done, so length and digest decide before anything is
        committed; an upload that is cut leaves nothing behind.

        Raises:
            LengthMismatch, DigestMismatch: the bytes are not the announced ones.
            UploadsBusy, UploadStalled: there is no room, or the client has fallen silent.
            EntryNotFound, StateConflict, …: see check_header and FileStore.
        """
        with metrics.counting_refusal():
            return await self._upload(owner_id, token, header, chunks)

    async def _upload(self, owner_id: str, token: str, header: FileHeader, chunks: AsyncIterator[bytes]) -> StoredFile:
        check_header(header, self.max_file_bytes, field="header")
        upload_id = UploadId(new_id("upl"))
        with self._slot(upload_id):
            allowance = await self.scheduler.allowance(owner_id, token)
            upload = await self.files.open_upload(upload_id, owner_id, header, is_resumable=False, allowance=allowance)
            metrics.UPLOADS_OPENED.labels(header.parent_kind.noun).inc()
            upload = await self._spooled(upload, chunks)
        return await self.settle_upload.settle(upload)

    @contextlib.contextmanager
    def _slot(self, upload_id: UploadId) -> Iterator[None]:
        if len(self._running) >= self.max_streams:
            raise UploadsBusy
        self._running.add(upload_id)
        try:
            yield
        finally:
            self._running.discard(upload_id)

    async def _spooled(self, upload: Upload, chunks: AsyncIterator[bytes]) -> Upload:
        """Returns the upload with all its bytes staged; one that fails is discarded."""
        try:
            if len(plan_parts(upload.header.size_bytes)) > 1:
                made = await self.objects.begin_parts(upload.id)
                upload = replace(upload, multipart_id=await self.files.set_multipart(upload.id, made))
            await self._spool(upload, chunks)
        except BaseException:
            await self.files.discard_upload(upload)
            raise
        return upload

    async def _spool(self, upload: Upload, chunks: AsyncIterator[bytes]) -> None:
        header = upload.header
        hasher, size, number = hashlib.sha256(), 0, 0
        length = part_length(header.size_bytes)
        buffer = bytearray()
        async for chunk in self._without_stall(chunks):
            size += len(chunk)
            if size > header.size_bytes:
                raise LengthMismatch(header.path, header.size_bytes, size)
            hasher.update(chunk)
            buffer += chunk
            # The last part waits for the verdict on the whole.
            if len(buffer) >= length and size < header.size_bytes:
                number += 1
                await self.objects.put_part(upload.id, upload.multipart_id, number, bytes(buffer[:length]))
                del buffer[:length]
        if size != header.size_bytes:
            raise LengthMismatch(header.path, header.size_bytes, size)
        if hasher.hexdigest() != header.sha256:
            raise DigestMismatch(header.path, header.sha256, hasher.hexdigest())
        await self._put_rest(upload, number, buffer, length)

    async def _without_stall(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            limit = asyncio.timeout(self.stall_seconds)
            try:
                async with limit:
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not limit.expired():
                    raise
                raise UploadStalled(self.stall_seconds) from None
            yield chunk

    async def _put_rest(self, upload: Upload, number: int, buffer: bytearray, length: int) -> None:
        """Writes what is left: at least one part, and two where the last chunk went over the end of a part."""
        while True:
            number += 1
            await self.objects.put_part(upload.id, upload.multipart_id, number, bytes(buffer[:length]))
            del buffer[:length]
            if not buffer:
                return
