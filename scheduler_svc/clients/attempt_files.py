"""What attempts store: presigned uploads, verified afterwards by reading every byte."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

from meshkit.blob import BlobNotFound, BlobStore
from scheduler_svc.domain.errors import ArtifactDamaged, FilesIncomplete
from scheduler_svc.domain.files import FileSet, StoredFile

URL_TTL = timedelta(minutes=15)
CHUNK_BYTES = 1024 * 1024
_PARALLEL_READS = 3
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024


class AttemptFiles:
    """The files of attempts in the object store."""

    def __init__(self, blob: BlobStore) -> None:
        self._blob = blob
        # Shared by all rpcs: verifying a large artifact must leave threads for everybody else's requests.
        self._reading = asyncio.Semaphore(_PARALLEL_READS)
        self._publishing: dict[tuple[str, str], asyncio.Task[None]] = {}

    def upload_urls(self, files: FileSet) -> dict[str, str]:
        """Returns, by path, URLs that take exactly the bytes announced for the next 15 minutes."""
        return {
            file.path: self._blob.presign_put(files.object_name(file), URL_TTL, length=file.size_bytes)
            for file in files.files
        }

    def download_urls(self, files: FileSet) -> dict[str, str]:
        """Returns, by path, URLs to read from for the next 15 minutes."""
        return {file.path: self._blob.presign_get(files.object_name(file), URL_TTL) for file in files.files}

    async def publish(self, files: FileSet) -> None:
        """Verifies every file and then writes the manifest, which nobody can write twice.

        It goes on when its caller gives up: whoever asks again joins the reading under way, or finds the manifest.

        Raises:
            FilesIncomplete: a file is missing or differs, or the manifest is there for other files.
        """
        name = (files.manifest_name, files.digest)
        task = self._publishing.get(name)
        if task is None:
            task = self._publishing[name] = asyncio.create_task(self._publish(files), name="publish files")
            task.add_done_callback(lambda done: self._on_published(name, done))
        await asyncio.shield(task)

    async def are_present(self, files: FileSet) -> bool:
        """Tells whether every file is there in its size; reads none of them."""
        for file in files.files:
            try:
                if (await self._blob.stat(files.object_name(file))).size != file.size_bytes:
                    return False
            except BlobNotFound:
                return False
        return True

    async def read(self, files: FileSet, file: StoredFile) -> AsyncIterator[bytes]:
        """Yields a published file in chunks of at most 1 MiB.

        Raises:
            ArtifactDamaged: the object is gone, or its bytes are not those that were published.
        """
        digest = hashlib.sha256()
        try:
            async for chunk in self._blob.iter_bytes(files.object_name(file), chunk_size=CHUNK_BYTES):
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

    async def _publish(self, files: FileSet) -> None:
        present = await self._present_manifest(files)
        if present is None:
            await self._verify(files)
            if await self._blob.put_if_absent(files.manifest_name, files.manifest, content_type="application/json"):
                return
            present = await self._present_manifest(files)
        if present != files.manifest:
            raise FilesIncomplete("manifest.json", "lists other files that this attempt has published before")

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
                async for chunk in self._blob.iter_bytes(name, chunk_size=CHUNK_BYTES):
                    # Off the event loop: a millisecond for each chunk would add up for everybody else.
                    await asyncio.to_thread(digest.update, chunk)
            except BlobNotFound:
                return "is not in the object store: PUT it first"
        return "" if digest.hexdigest() == file.sha256 else "has another SHA-256: PUT it again"
