"""Puts a file that the service holds itself in place, by the way that uploads go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import BinaryIO

from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.domain.storage_usage import StorageAllowance
from catalog_svc.domain.upload import FileHeader, StoredFile, UploadId, plan_parts
from catalog_svc.store.file_store import FileStore
from catalog_svc.usecases.check_header import check_header
from catalog_svc.usecases.settle_upload import SettleUpload
from meshkit.ids import new_id


@dataclass(frozen=True, slots=True)
class StoreFile:
    """Stores files; a second time changes nothing."""

    files: FileStore
    objects: ObjectStore
    settle_upload: SettleUpload
    max_file_bytes: int

    async def store(
        self, owner_id: str, header: FileHeader, content: BinaryIO, allowance: StorageAllowance
    ) -> StoredFile:
        """Puts a file in place; bytes that are stored already are not sent again.

        Args:
            owner_id: The owner of the parent.
            header: What the file is.
            content: A file of the header's length and digest.
            allowance: What the owner may store.

        Raises:
            EntryNotFound, StateConflict, …: see check_header, FileStore and SettleUpload.
        """
        check_header(header, self.max_file_bytes, field="file")
        upload = await self.files.open_upload(
            UploadId(new_id("upl")), owner_id, header, is_resumable=True, allowance=allowance
        )
        if upload.stored is not None:
            return upload.stored
        parts = plan_parts(header.size_bytes)
        if len(parts) > 1 and upload.multipart_id is None:
            made = await self.objects.begin_parts(upload.id)
            upload = replace(upload, multipart_id=await self.files.set_multipart(upload.id, made))
        for part in parts:
            data = await asyncio.to_thread(_read, content, part.offset_bytes, part.size_bytes)
            await self.objects.put_part(upload.id, upload.multipart_id, part.number, data)
        return await self.settle_upload.settle(upload)


def _read(content: BinaryIO, offset: int, length: int) -> bytes:
    content.seek(offset)
    return content.read(length)
