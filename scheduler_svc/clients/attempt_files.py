"""What attempts store: presigned uploads, verified afterwards by reading every byte."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

from meshkit.blob import BlobNotFound, BlobStore, BlobUnavailable
from scheduler_svc.domain.errors import ArtifactDamaged, FilesIncomplete
from scheduler_svc.domain.files import FileSet, StoredFile
from scheduler_svc.domain.uploads import FilePart, Upload, part_bytes_for

URL_TTL = timedelta(minutes=15)
CHUNK_BYTES = 1024 * 1024
_PARALLEL_READS = 3
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_READ_TRIES = 5
"""In a row that bring nothing new."""
_READ_PAUSE_SECONDS = 0.2


class AttemptFiles:
    """The files of attempts in the object store."""

    def __init__(self, blob: BlobStore, *, part_bytes: int) -> None:
        """Files larger than `part_bytes` are stored in parts of that size."""
        self._blob = blob
        self._part_bytes = part_bytes
        # Shared by all rpcs: verifying a large artifact must leave threads for everybody else's requests.
        self._reading = asyncio.Semaphore(_PARALLEL_READS)
        self._publishing: dict[tuple[str, str], asyncio.Task[None]] = {}

    def upload_url(self, files: FileSet, file: StoredFile) -> str:
        """Returns a URL that takes exactly the bytes announced for the next 15 minutes."""
        return self._blob.presign_put(files.object_name(file), URL_TTL, length=file.size_bytes)

    def part_url(self, files: FileSet, file: StoredFile, upload: Upload, part: FilePart) -> str:
        """Returns a URL that takes exactly the bytes of a part for the next 15 minutes."""
        name = files.object_name(file)
        return self._blob.presign_part(name, upload.upload_id, part.number, URL_TTL, length=part.size_bytes)

    def goes_in_parts(self, file: StoredFile) -> bool:
        """Tells whether a file is so large that losing its upload to one broken connection would hurt."""
        return file.size_bytes > self._part_bytes

    async def begin_upload(self, files: FileSet, file: StoredFile) -> Upload:
        """Begins a multipart upload; whoever cannot record it must `abort` it."""
        upload_id = await self._blob.create_multipart(files.object_name(file))
        return Upload(upload_id, file.size_bytes, file.sha256, part_bytes_for(file.size_bytes, self._part_bytes))

    async def abort(self, files: FileSet, file: StoredFile, upload: Upload) -> None:
        """Drops an upload and its parts."""
        await self._blob.abort_multipart(files.object_name(file), upload.upload_id)

    async def missing_parts(self, files: FileSet, file: StoredFile, upload: Upload) -> Sequence[FilePart] | None:
        """Returns the parts that have not arrived, none once the file is assembled; None when the upload leads nowhere:
        it was aborted, or what was assembled from it turned out to be wrong."""
        name = files.object_name(file)
        try:
            arrived = {part.number: part.size for part in await self._blob.list_parts(name, upload.upload_id)}
        except BlobNotFound:
            return () if await self._has_size(name, file.size_bytes) else None
        return upload.missing(arrived)

    async def abort_uploads(self, prefix: str) -> int:
        """Drops all multipart uploads under a prefix, whoever began them; returns how many there were."""
        aborted: set[tuple[str, str]] = set()
        while fresh := [each for each in await self._blob.list_multipart(prefix) if each not in aborted]:
            for name, upload_id in fresh:
                await self._blob.abort_multipart(name, upload_id)
            aborted.update(fresh)
        return len(aborted)

    def download_urls(self, files: FileSet) -> dict[str, str]:
        """Returns, by path, URLs to read from for the next 15 minutes."""
        return {file.path: self._blob.presign_get(files.object_name(file), URL_TTL) for file in files.files}

    async def publish(self, files: FileSet, uploads: Mapping[str, Upload]) -> None:
        """Assembles what came in parts, verifies every file and then writes the manifest, which nobody can write twice.

        `uploads` are those of files that came in parts, by object name.

        It goes on when its caller gives up: whoever asks again joins the reading under way, or finds the manifest.

        Raises:
            FilesIncomplete: a file is missing or differs, or the manifest is there for other files.
        """
        name = (files.manifest_name, files.digest)
        task = self._publishing.get(name)
        if task is None:
            task = self._publishing[name] = asyncio.create_task(self._publish(files, uploads), name="publish files")
            task.add_done_callback(lambda done: self._on_published(name, done))
        await asyncio.shield(task)

    async def are_present(self, files: FileSet) -> bool:
        """Tells whether every file is there in its size; reads none of them."""
        for file in files.files:
            if not await self._has_size(files.object_name(file), file.size_bytes):
                return False
        return True

    async def read(self, files: FileSet, file: StoredFile) -> AsyncIterator[bytes]:
        """Yields a published file in chunks of at most 1 MiB.

        Raises:
            ArtifactDamaged: the object is gone, or its bytes are not those that were published.
        """
        digest = hashlib.sha256()
        try:
            async for chunk in self._chunks(files.object_name(file)):
                digest.update(chunk)
                yield chunk
        except BlobNotFound as error:
            raise ArtifactDamaged(files.key.job_id, file.path) from error
        if digest.hexdigest() != file.sha256:
            raise ArtifactDamaged(files.key.job_id, file.path)

    async def list_names(self, prefix: str) -> list[str]:
        """Returns the names of all objects under a prefix."""
        return [stat.key for stat in await self._blob.list(prefix)]

    async def remove(self, name: str) -> None:
        """Deletes an object; one that is not there is no error."""
        await self._blob.remove(name)

    async def _publish(self, files: FileSet, uploads: Mapping[str, Upload]) -> None:
        present = await self._present_manifest(files)
        if present is None:
            for file in files.files:
                if (upload := uploads.get(files.object_name(file))) is not None:
                    await self._assemble(files, file, upload)
            await self._verify(files)
            if await self._blob.put_if_absent(files.manifest_name, files.manifest, content_type="application/json"):
                return
            present = await self._present_manifest(files)
        if present != files.manifest:
            raise FilesIncomplete("manifest.json", "lists other files that this attempt has published before")

    async def _assemble(self, files: FileSet, file: StoredFile, upload: Upload) -> None:
        """Makes the object from its parts, unless that has been done."""
        name = files.object_name(file)
        try:
            arrived = {part.number: part for part in await self._blob.list_parts(name, upload.upload_id)}
            if upload.missing({number: part.size for number, part in arrived.items()}):
                raise FilesIncomplete(file.path, "has parts that are not in the object store: PUT them first")
            parts = [(part.number, arrived[part.number].etag) for part in upload.parts]
            await self._blob.complete_multipart(name, upload.upload_id, parts)
        except BlobNotFound:
            return  # assembled before, or gone: reading it will tell

    def _on_published(self, name: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._publishing[name]
        if not task.cancelled():
            task.exception()  # taken note of, even if everybody who asked has gone

    async def _present_manifest(self, files: FileSet) -> bytes | None:
        try:
            return await self._blob.get_bytes(files.manifest_name, max_bytes=_MAX_MANIFEST_BYTES)
        except BlobNotFound:
            return None

    async def _verify(self, files: FileSet) -> None:
        tasks = [asyncio.create_task(self._problem(files, file)) for file in files.files]
        try:
            for file, problem in zip(files.files, await asyncio.gather(*tasks), strict=True):
                if problem:
                    raise FilesIncomplete(file.path, problem)
        finally:
            for task in tasks:
                task.cancel()

    async def _problem(self, files: FileSet, file: StoredFile) -> str:
        """Says what is wrong with a stored file; nothing when it is what was announced."""
        name = files.object_name(file)
        async with self._reading:
            try:
                size = (await self._blob.stat(name)).size
                if size != file.size_bytes:
                    return f"has {size} bytes, not {file.size_bytes}: PUT it again"
                digest = hashlib.sha256()
                async for chunk in self._chunks(name):
                    # Off the event loop: a millisecond for each chunk would add up for everybody else.
                    await asyncio.to_thread(digest.update, chunk)
            except BlobNotFound:
                return "is not in the object store: PUT it first"
            if digest.hexdigest() == file.sha256:
                return ""
            # Were it left there, a file that came in parts would pass for one that has arrived.
            await self._blob.remove(name)
        return "has another SHA-256: PUT it again"

    async def _chunks(self, name: str) -> AsyncIterator[bytes]:
        """Yields an object; a connection that breaks is made anew and goes on where the last one ended."""
        offset, fruitless = 0, 0
        while True:
            try:
                async for chunk in self._blob.iter_bytes(name, offset=offset, chunk_size=CHUNK_BYTES):
                    offset += len(chunk)
                    fruitless = 0
                    yield chunk
                return
            except BlobUnavailable:
                fruitless += 1
                if fruitless >= _READ_TRIES:
                    raise
            await asyncio.sleep(_READ_PAUSE_SECONDS * 2**fruitless * random.uniform(0.5, 1.0))  # noqa: S311  # no secret

    async def _has_size(self, name: str, size_bytes: int) -> bool:
        try:
            return (await self._blob.stat(name)).size == size_bytes
        except BlobNotFound:
            return False
