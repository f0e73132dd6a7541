"""Where the catalog's bytes lie in the object store, and how they get there."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from catalog_svc.clients.foreign_objects import ForeignObjects
from catalog_svc.domain.content import ContentPlace
from catalog_svc.domain.entry import EntryId
from catalog_svc.domain.upload import PART_BYTES, Part, Upload, UploadId
from meshkit.blob import BlobError, BlobNotFound, BlobStat, BlobStore, VerifiedPut

URL_TTL = timedelta(minutes=15)
_CHUNK_BYTES = 1024 * 1024
_LOOKS_AT_ONCE = 32
_CONTENT_KEY = re.compile(r"(contents/[^/]+/[0-9a-f]{64})(?:\.poster\.jpg|\.proxy\.mp4)?")
_UPLOAD_KEY = re.compile(r"uploads/(upl_[^/]+)")
_MARKS = "catalogs/"
_MARK_TEXT = b"""A catalog keeps its files in this bucket; the last part of this key is the name of its database.
Where there is more than one such object, no catalog searches the bucket for files that nobody refers to.
Delete this one if its database is no more.
"""


class BytesMissing(Exception):
    """There are no such bytes: they were never sent, or have been moved or removed."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a stream of bytes turned out to be."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A secret address and when it ends."""

    url: str
    expire_time: datetime


class Picture(enum.Enum):
    """What is made of a clip for people to look at; the value ends its key."""

    POSTER = ".poster.jpg"
    PROXY = ".proxy.mp4"

    @property
    def content_type(self) -> str:
        return "image/jpeg" if self is Picture.POSTER else "video/mp4"


class ObjectStore:
    """The catalog's part of the bucket.

    Verified content lies under its owner and digest: `contents/{owner_id}/{sha256}`. What is on its way lies under
    `uploads/{upload_id}`, unless the store verifies it as it comes: then it goes straight to its place. A presigned URL
    can write nothing else. Pictures of clips that stay in other buckets lie under `pictures/{location_id}/{sha256}`.
    """

    def __init__(self, blobs: BlobStore, *, is_verifying: bool) -> None:
        """`is_verifying`: the store refuses other bytes than the signed ones, and to overwrite; see `try_store`."""
        self._blobs = blobs
        self._foreign: ForeignObjects | None = None
        self.is_verifying = is_verifying

    async def try_store(self) -> bool:
        """Tries whether the store verifies what is sent to it.

        Returns whether it has answered: if not, nothing is changed.
        """
        log = structlog.get_logger()
        try:
            leniency = await self._blobs.find_leniency()
        except BlobError as error:
            log.warning("objects.trial_unanswered", is_verifying=self.is_verifying, error=str(error))
            return False
        self.is_verifying = leniency is None
        if leniency is None:
            log.info("objects.verified_by_store")
        else:
            log.warning("objects.verified_here", cause=f"the object store {leniency}")
        return True

    async def keep_trying(self, *, soon_seconds: float = 5, late_seconds: float = 600) -> None:
        """Repeats the trial for ever.

        A store may be replaced or mended, and one that has not answered is asked again soon.
        """
        pause = soon_seconds
        while True:
            await asyncio.sleep(pause)
            has_answered = await self.try_store()
            pause = late_seconds if has_answered else min(2 * pause, late_seconds)

    def read_also(self, foreign: ForeignObjects) -> None:
        """Has content in other buckets read, too."""
        self._foreign = foreign

    async def read_urls(self, places: Sequence[ContentPlace]) -> list[SignedUrl]:
        """Returns where to GET verified content, in order; content in other buckets is looked at first.

        Raises:
            ReferenceBroken, SourceUnavailable: see ForeignObjects.
        """
        expire_time = datetime.now(UTC) + URL_TTL
        foreign = iter(await self._foreign_urls([place for place in places if place.location_id is not None]))
        return [
            SignedUrl(
                self._blobs.presign_get(place.object_key, URL_TTL) if place.location_id is None else next(foreign),
                expire_time,
            )
            for place in places
        ]

    def write_url(self, upload_id: UploadId, multipart_id: str | None, part: Part) -> str:
        """Returns where to PUT one part, of exactly its length."""
        key = upload_key(upload_id)
        if multipart_id is None:
            return self._blobs.presign_put(key, URL_TTL, length=part.size_bytes)
        return self._blobs.presign_part(key, multipart_id, part.number, URL_TTL, length=part.size_bytes)

    def direct_put(self, place: ContentPlace, size_bytes: int, sha256: str) -> VerifiedPut:
        """Returns where to PUT content straight to its place; only where the store is verifying."""
        return self._blobs.presign_verified_put(place.object_key, URL_TTL, length=size_bytes, sha256=sha256)

    async def sent_digest(self, upload: Upload) -> Digest | None:
        """Returns what was sent straight to its place, by the store's word; None if it has to be read.

        That word is taken of a store that verifies; it may have been another one when the bytes came.

        Raises:
            BytesMissing: nothing is there.
        """
        try:
            found = await self._blobs.stat(upload.place.object_key, with_sha256=True)
        except BlobNotFound as error:
            raise BytesMissing(f"content {upload.place.object_key}") from error
        if found.size != upload.header.size_bytes:  # wrong, whatever its digest
            return Digest(found.size, upload.header.sha256)
        is_proven = self.is_verifying and found.sha256 == upload.header.sha256
        return Digest(found.size, upload.header.sha256) if is_proven else None

    async def read_digest(self, place: ContentPlace) -> Digest:
        """Reads content of this service's own bucket through; raises BytesMissing."""
        try:
            return await _digest_of(self._blobs.iter_bytes(place.object_key, chunk_size=_CHUNK_BYTES))
        except BlobNotFound as error:
            raise BytesMissing(f"content {place.object_key}") from error

    async def begin_parts(self, upload_id: UploadId) -> str:
        """Starts a multipart upload and returns S3's name for it."""
        return await self._blobs.create_multipart(upload_key(upload_id))

    async def put_part(self, upload_id: UploadId, multipart_id: str | None, number: int, data: bytes) -> None:
        """Writes a part, or the whole staged object where there are no parts."""
        if multipart_id is None:
            await self._blobs.put_bytes(upload_key(upload_id), data)
        else:
            await self._blobs.put_part(upload_key(upload_id), multipart_id, number, data)

    async def arrived_parts(self, upload_id: UploadId, multipart_id: str, parts: Sequence[Part]) -> frozenset[int]:
        """Returns the numbers of the parts that are there in their lengths; of all, if they were assembled before."""
        sizes = {part.number: part.size_bytes for part in parts}
        try:
            arrived = await self._blobs.list_parts(upload_key(upload_id), multipart_id)
        except BlobNotFound:
            return frozenset(sizes)
        return frozenset(part.number for part in arrived if sizes.get(part.number) == part.size)

    async def missing_parts(self, upload_id: UploadId, multipart_id: str, parts: Sequence[Part]) -> tuple[int, ...]:
        """Assembles the parts if all are there with the right lengths, else returns the numbers of those that are not.

        Raises:
            BytesMissing: the multipart upload is not there, as it was assembled or aborted before.
        """
        key = upload_key(upload_id)
        try:
            arrived = {part.number: part for part in await self._blobs.list_parts(key, multipart_id)}
            missing = tuple(
                part.number
                for part in parts
                if part.number not in arrived or arrived[part.number].size != part.size_bytes
            )
            if not missing:
                etags = [(part.number, arrived[part.number].etag) for part in parts]
                await self._blobs.complete_multipart(key, multipart_id, etags)
            return missing
        except BlobNotFound as error:
            raise BytesMissing(f"multipart upload of {upload_id}") from error

    async def settle_small(self, upload: Upload) -> Digest:
        """Reads a staged object that fits into memory, and stores it under its digest if it is the announced one.

        What is stored is exactly what was verified: the staged object can be overwritten as long as its URL lives.

        Raises:
            BytesMissing: there is no staged object.
        """
        header = upload.header
        data = b"".join([chunk async for chunk in self._staged(upload.id, header.size_bytes + 1)])
        digest = Digest(len(data), (await asyncio.to_thread(hashlib.sha256, data)).hexdigest())
        if digest == Digest(header.size_bytes, header.sha256):
            await self._blobs.put_bytes(upload.place.object_key, data)
        return digest

    async def settle_large(self, upload: Upload) -> Digest:
        """Reads an assembled object through, and has the store copy it under its digest if it is the announced one.

        Once assembled, no part URL can write it any more, so what is copied is what was read.

        Raises:
            BytesMissing: there is no assembled object.
        """
        header = upload.header
        digest = await _digest_of(self._staged(upload.id, header.size_bytes + 1))
        if digest == Digest(header.size_bytes, header.sha256):
            await self._blobs.copy(upload_key(upload.id), upload.place.object_key)
        return digest

    async def read(self, place: ContentPlace, max_bytes: int) -> bytes:
        """Returns verified content of at most that length; raises BytesMissing."""
        if place.location_id is not None:
            return await self._foreign_objects().read(place, max_bytes)
        try:
            return await self._blobs.get_bytes(place.object_key, max_bytes=max_bytes)
        except BlobNotFound as error:
            raise BytesMissing(f"content {place.object_key}") from error

    async def read_beginning(self, place: ContentPlace, length: int) -> bytes:
        """Returns the first `length` bytes of verified content in the own bucket, or all if there are fewer.

        Raises:
            BytesMissing: there is none.
        """
        stream = self._blobs.iter_bytes(place.object_key, chunk_size=min(length, _CHUNK_BYTES))
        data = bytearray()
        try:
            async with contextlib.aclosing(stream):
                async for chunk in stream:
                    data += chunk
                    if len(data) >= length:
                        break
        except BlobNotFound as error:
            raise BytesMissing(f"content {place.object_key}") from error
        return bytes(data[:length])

    async def download(self, place: ContentPlace, size_bytes: int, path: Path) -> None:
        """Writes verified content to a file; raises BytesMissing."""
        if place.location_id is not None:
            await self._foreign_objects().download(place, size_bytes, path)
        elif size_bytes <= PART_BYTES:  # one request less, and most clips are small
            await asyncio.to_thread(path.write_bytes, await self.read(place, size_bytes))
        else:
            try:
                await self._blobs.get_file(place.object_key, path)
            except BlobNotFound as error:
                raise BytesMissing(f"content {place.object_key}") from error

    async def fetch(self, place: ContentPlace, size_bytes: int, sha256: str, path: Path) -> None:
        """Writes content to a file, and holds it against its digest once more.

        Raises:
            BytesMissing: there is none in this service's own bucket, or other bytes lie there.
        """
        await self.download(place, size_bytes, path)
        if place.location_id is None and await asyncio.to_thread(_sha256_of, path) != sha256:
            raise BytesMissing(f"content {place.object_key} has other bytes")

    async def is_content_lost(self, place: ContentPlace, sha256: str) -> bool:
        """Tells whether content is gone from this service's own bucket; other bytes in its place are removed.

        To be called under the lock of the object, so that nobody puts the right ones there meanwhile.
        """
        try:
            if (await self.read_digest(place)).sha256 == sha256:
                return False
        except BytesMissing:
            return True
        await self._blobs.remove(place.object_key)
        return True

    async def put_picture(self, key: str, picture: Picture, data: bytes) -> None:
        """Stores a picture of a clip in this service's own bucket, under `pictures_key`."""
        await self._blobs.put_bytes(f"{key}{picture.value}", data, content_type=picture.content_type)

    def picture_url(self, key: str, picture: Picture) -> SignedUrl:
        """Returns where to GET a picture of a clip by its `pictures_key`."""
        expire_time = datetime.now(UTC) + URL_TTL
        return SignedUrl(self._blobs.presign_get(f"{key}{picture.value}", URL_TTL), expire_time)

    async def remove_content(self, object_key: str) -> None:
        """Removes content from this service's own bucket, and the pictures that were made of it.

        The `pictures_key` of a clip in another bucket is the key of no content, but of pictures.
        """
        for picture in Picture:
            await self._blobs.remove(f"{object_key}{picture.value}")
        await self._blobs.remove(object_key)

    async def list_page(self, prefix: str, after: str, limit: int) -> list[BlobStat]:
        """Lists objects by key: at most `limit` after a key."""
        return await self._blobs.list_page(prefix, after, limit)

    @staticmethod
    def content_key(key: str) -> str | None:
        """Returns the content that a key belongs to, as that of a picture of it does; None if to none."""
        found = _CONTENT_KEY.fullmatch(key)
        return found[1] if found else None

    @staticmethod
    def upload_id(key: str) -> UploadId | None:
        """Returns the upload that a key belongs to; None if to none."""
        found = _UPLOAD_KEY.fullmatch(key)
        return UploadId(found[1]) if found else None

    @staticmethod
    def mark_key(identity: str) -> str:
        """Returns the key of the mark of a database that keeps files in this bucket."""
        return f"{_MARKS}{identity}"

    async def list_marks(self) -> set[str]:
        """Returns which databases keep files in this bucket, by their marks."""
        return {item.key.removeprefix(_MARKS) for item in await self._blobs.list(_MARKS)}

    async def put_mark(self, identity: str) -> None:
        """Marks the bucket as one that a database keeps files in."""
        await self._blobs.put_if_absent(self.mark_key(identity), _MARK_TEXT, content_type="text/plain")

    async def put_unknown_mark(self) -> None:
        """Marks the bucket as one that holds files of a database that has left no mark."""
        await self.put_mark("unknown")

    async def remove_upload(self, upload_id: UploadId, multipart_id: str | None) -> None:
        """Removes what is staged of an upload."""
        if multipart_id is not None:
            await self._blobs.abort_multipart(upload_key(upload_id), multipart_id)
        await self._blobs.remove(upload_key(upload_id))

    async def remove_entry(self, entry_id: EntryId) -> int:
        """Removes all content of an entry that kept its own; returns how many objects there were."""
        folder = "datasets" if entry_id.startswith("ds_") else "models"
        return await self._blobs.remove_prefix(f"{folder}/{entry_id}/")

    async def _foreign_urls(self, places: Sequence[ContentPlace]) -> list[str]:
        if not places:
            return []
        foreign, slots = self._foreign_objects(), asyncio.Semaphore(_LOOKS_AT_ONCE)

        async def url(place: ContentPlace) -> str:
            async with slots:
                return await foreign.url(place)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(url(place)) for place in places]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]

    def _foreign_objects(self) -> ForeignObjects:
        if self._foreign is None:
            raise BytesMissing("no other bucket is read here")
        return self._foreign

    async def _staged(self, upload_id: UploadId, most: int) -> AsyncGenerator[bytes, None]:
        """Yields the staged object; stops early once more than was announced has come."""
        stream = self._blobs.iter_bytes(upload_key(upload_id), chunk_size=_CHUNK_BYTES)
        count = 0
        try:
            async with contextlib.aclosing(stream):
                async for chunk in stream:
                    yield chunk
                    count += len(chunk)
                    if count >= most:
                        return
        except BlobNotFound as error:
            raise BytesMissing(f"staged object of {upload_id}") from error


async def open_store(blobs: BlobStore) -> ObjectStore:
    """Returns the catalog's part of a bucket, after a trial of whether its store verifies what is sent to it."""
    store = ObjectStore(blobs, is_verifying=False)
    await store.try_store()
    return store


async def _digest_of(stream: AsyncGenerator[bytes, None]) -> Digest:
    hasher, size = hashlib.sha256(), 0
    async with contextlib.aclosing(stream):
        async for chunk in stream:
            # In a thread: hashing a large file must not make all other callers wait.
            await asyncio.to_thread(hasher.update, chunk)
            size += len(chunk)
    return Digest(size, hasher.hexdigest())


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upload_key(upload_id: UploadId) -> str:
    """Returns the key of what is on its way."""
    return f"uploads/{upload_id}"
