"""Uploads by presigned URLs: the client PUTs the parts, this service never touches them on the way.

A file of one part goes straight to its place, if the client sends the headers that have the store verify it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from catalog_svc import metrics
from catalog_svc.clients.object_store import URL_TTL, ObjectStore
from catalog_svc.clients.scheduler import Scheduler
from catalog_svc.domain.errors import BatchTooLarge, CatalogError, UploadNotFound
from catalog_svc.domain.storage_usage import StorageAllowance
from catalog_svc.domain.upload import (
    MAX_BATCH_PARTS,
    FileHeader,
    Part,
    StoredFile,
    Upload,
    UploadId,
    by_parent,
    part_count,
    plan_parts,
)
from catalog_svc.store.file_batch_store import FileBatchStore, NewUpload, NotTogether
from catalog_svc.store.file_store import FileStore
from catalog_svc.usecases import audit
from catalog_svc.usecases.check_header import check_header
from catalog_svc.usecases.each import each
from catalog_svc.usecases.settle_upload import SettleUpload
from meshkit.failpoints import failpoint
from meshkit.ids import new_id

_ADDRESSES_IN_A_ROW = 64
"""Some milliseconds of work, after which other calls have their turn."""


@dataclass(frozen=True, slots=True)
class UploadOffer:
    """An upload and where to send its parts; no parts for one that is complete."""

    upload: Upload
    parts: tuple[tuple[Part, str], ...]
    arrived: frozenset[int]
    """Numbers of the parts that an earlier call has sent already."""
    expire_time: datetime
    headers: Mapping[str, str] = field(default_factory=dict)
    """To be sent with each part exactly so."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that somebody wants to upload."""

    header: FileHeader
    accepts_headers: bool
    """Headers that have the store verify a file of one part will be sent."""


@dataclass(frozen=True, slots=True)
class UploadByParts:
    """Opens and completes uploads."""

    files: FileStore
    batches: FileBatchStore
    objects: ObjectStore
    settle_upload: SettleUpload
    max_file_bytes: int
    scheduler: Scheduler
    slots: asyncio.Semaphore
    """How much of all batches is opened or completed at once: each step takes a connection to the database."""

    async def open(self, owner_id: str, token: str, wanted: Wanted) -> UploadOffer:
        """Opens an upload, or resumes the open one of the same file; raises what check_header and FileStore raise."""
        with metrics.counting_refusal():
            check_header(wanted.header, self.max_file_bytes, field="file")
            return await self._open(owner_id, wanted, await self.scheduler.allowance(owner_id, token))

    async def open_many(self, owner_id: str, token: str, wanted: Sequence[Wanted]) -> list[UploadOffer | Exception]:
        """Opens uploads, each by itself but the same file once; returns offers and errors in order.

        The errors are those of `open`, and BatchTooLarge.
        """
        refused = self._refused(wanted)
        distinct: dict[FileHeader, Wanted] = {}
        for number, one in enumerate(wanted):
            if number not in refused:
                accepts = one.accepts_headers and distinct.get(one.header, one).accepts_headers
                distinct[one.header] = Wanted(one.header, accepts)
        allowance = await self.scheduler.allowance(owner_id, token)
        groups = by_parent(distinct.values(), lambda one: one.header)
        opened = await asyncio.gather(*(self._open_together(owner_id, group, allowance) for group in groups))
        offers = {header: offer for group in opened for header, offer in group.items()}
        metrics.count_refusals([*refused.values(), *offers.values()])
        return [refused[number] if number in refused else offers[one.header] for number, one in enumerate(wanted)]

    async def _open_together(
        self, owner_id: str, wanted: Sequence[Wanted], allowance: StorageAllowance
    ) -> dict[FileHeader, UploadOffer | Exception]:
        """Opens uploads of different files into one parent: all at once, or else each by itself."""

        async def open_one(one: Wanted) -> UploadOffer:
            async with self.slots:
                return await self._open(owner_id, one, allowance)

        async def offer(upload: Upload) -> UploadOffer:
            async with self.slots:
                return await self._offer(upload, plan_parts(upload.header.size_bytes))

        headers = [one.header for one in wanted]
        uploads = await self._opened_together(owner_id, wanted, allowance) if len(wanted) > 1 else None
        if uploads is None:
            return dict(zip(headers, await each(open_one, wanted), strict=True))
        await failpoint("upload.opened")
        return dict(zip(headers, await each(offer, uploads), strict=True))

    async def _opened_together(
        self, owner_id: str, wanted: Sequence[Wanted], allowance: StorageAllowance
    ) -> list[Upload] | None:
        parent_id = wanted[0].header.parent_id
        new = [NewUpload(UploadId(new_id("upl")), one.header, self._is_direct(one)) for one in wanted]
        try:
            async with self.slots:
                uploads = await self.batches.open_uploads(owner_id, parent_id, new, allowance)
                for upload in uploads:
                    _tell_opened(upload)
                return uploads
        except (NotTogether, CatalogError):
            return None  # some of them cannot be opened, and which ones turns out when each is asked for by itself
        except Exception as error:
            structlog.get_logger().warning("upload.batch_split", resource=parent_id, exc_info=error)
            return None

    async def complete_many(self, owner_id: str, upload_ids: Sequence[UploadId]) -> list[StoredFile | Exception]:
        """Completes uploads, each by itself; returns files and errors in order."""
        found = await self.batches.get_uploads(upload_ids, owner_id)
        uploads = [found[upload_id] for upload_id in dict.fromkeys(upload_ids) if upload_id in found]
        sent_straight = [upload for upload in uploads if upload.is_direct and upload.stored is None]
        others = [upload for upload in uploads if not upload.is_direct or upload.stored is not None]

        async def complete_straight() -> list[StoredFile | Exception]:
            if not sent_straight:
                return []
            async with self.slots:
                return await self.settle_upload.settle_many(sent_straight)

        async def complete_one(upload: Upload) -> StoredFile:
            # Reading it through may take minutes, for which nobody else's small files shall wait.
            async with self.slots if upload.multipart_id is None else contextlib.nullcontext():
                return await self._settled(upload)

        straight, rest = await asyncio.gather(complete_straight(), each(complete_one, others))
        outcomes: dict[UploadId, StoredFile | Exception] = {
            upload.id: outcome for upload, outcome in zip([*sent_straight, *others], [*straight, *rest], strict=True)
        }
        metrics.count_refusals(outcomes.values())
        return [outcomes.get(upload_id) or UploadNotFound() for upload_id in upload_ids]

    def _refused(self, wanted: Sequence[Wanted]) -> dict[int, Exception]:
        """Returns which files of a batch are not even opened, by their place, and why."""
        refused: dict[int, Exception] = {}
        room = MAX_BATCH_PARTS
        for number, one in enumerate(wanted):
            header, count = one.header, part_count(one.header.size_bytes)
            try:
                check_header(header, self.max_file_bytes, field="file")
                if count > room:
                    raise BatchTooLarge(header.path, count, MAX_BATCH_PARTS)
                room -= count
            except CatalogError as error:
                refused[number] = error
        return refused

    async def _open(self, owner_id: str, wanted: Wanted, allowance: StorageAllowance) -> UploadOffer:
        header, parts = wanted.header, plan_parts(wanted.header.size_bytes)
        upload = await self.files.open_upload(
            UploadId(new_id("upl")),
            owner_id,
            header,
            is_resumable=True,
            is_direct=self._is_direct(wanted),
            allowance=allowance,
        )
        _tell_opened(upload)
        await failpoint("upload.opened")
        return await self._offer(upload, parts)

    def _is_direct(self, wanted: Wanted) -> bool:
        return wanted.accepts_headers and part_count(wanted.header.size_bytes) == 1 and self.objects.is_verifying

    async def _offer(self, upload: Upload, parts: Sequence[Part]) -> UploadOffer:
        header = upload.header
        expire_time = datetime.now(UTC) + URL_TTL
        if upload.stored is not None:
            return UploadOffer(upload, (), frozenset(), expire_time)
        if upload.is_direct:
            put = self.objects.direct_put(upload.place, header.size_bytes, header.sha256)
            return UploadOffer(upload, ((parts[0], put.url),), frozenset(), expire_time, put.headers)
        arrived: frozenset[int] = frozenset()
        if upload.multipart_id is not None:
            arrived = await self.objects.arrived_parts(upload.id, upload.multipart_id, parts)
        elif len(parts) > 1:
            upload = await self._with_multipart(upload)
        return UploadOffer(upload, await self._addresses(upload, parts), arrived, expire_time)

    async def _addresses(self, upload: Upload, parts: Sequence[Part]) -> tuple[tuple[Part, str], ...]:
        offered = []
        for part in parts:
            if part.number % _ADDRESSES_IN_A_ROW == 0:
                await asyncio.sleep(0)
            offered.append((part, self.objects.write_url(upload.id, upload.multipart_id, part)))
        return tuple(offered)

    async def complete(self, owner_id: str, upload_id: UploadId) -> StoredFile:
        """Puts an uploaded file in place; one that is in place already is simply answered. See SettleUpload."""
        with metrics.counting_refusal():
            return await self._settled(await self.files.get_upload(upload_id, owner_id))

    async def _settled(self, upload: Upload) -> StoredFile:
        if upload.stored is not None:
            return upload.stored
        return await self.settle_upload.settle(upload)

    async def _with_multipart(self, upload: Upload) -> Upload:
        made = await self.objects.begin_parts(upload.id)
        settled = await self.files.set_multipart(upload.id, made)
        if settled != made:
            await self.objects.remove_upload(upload.id, made)
        return replace(upload, multipart_id=settled)


def _tell_opened(upload: Upload) -> None:
    """Records a file whose bytes were there, at once: it is in place, even if its caller goes away before the offer."""
    metrics.UPLOADS_OPENED.labels(upload.header.parent_kind.noun).inc()
    if upload.stored is not None:
        audit.record_stored(upload, was_known=True)
