"""Brings one file of a source into its dataset or model."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import structlog

from catalog_svc.clients.sources.source import Source
from catalog_svc.domain.annotations import MAX_FILE_BYTES
from catalog_svc.domain.errors import FileTooLarge, SourceRefused, SourceUnavailable
from catalog_svc.domain.imports import AnnotationSource, Import, ImportItem
from catalog_svc.domain.upload import FileHeader
from catalog_svc.usecases.store_file import StoreFile

_BATCH_BYTES = 1024 * 1024
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FetchFile:
    """Fetches files: through a file without a name on this machine's disk, with little memory whatever their size."""

    store_file: StoreFile
    spool_dir: Path | None
    tries: int
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 60.0

    async def fetch(self, found: Import, source: Source, item: ImportItem) -> int:
        """Puts one file in place and returns its length in bytes; what fails for the moment is tried again.

        Raises:
            SourceRefused: the source does not give it, and never will.
            SourceUnavailable: it did not give it in any of the tries.
            EntryNotFound, StateConflict, …: see StoreFile.
        """
        return await self.with_tries(lambda: self._fetch(found, source, item))

    async def with_tries(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Returns what the work does; what is unavailable for the moment is tried again, with pauses."""
        for number in range(1, self.tries):
            try:
                return await work()
            except SourceUnavailable as error:
                structlog.get_logger().debug("import.tried", reason=error.reason, number=number)
            await asyncio.sleep(self._pause(number))
        return await work()

    def _pause(self, number: int) -> float:
        """Longer after every try, and no two files as long: a server that is down is not met by all at once."""
        most = min(self.longest_pause_seconds, self.first_pause_seconds * 2 ** (number - 1))
        return random.uniform(most / 2, most)  # noqa: S311  # no secret

    async def _fetch(self, found: Import, source: Source, item: ImportItem) -> int:
        most = _most_bytes(found, item, self.store_file.max_file_bytes)
        if item.size_bytes is not None and item.size_bytes > most:
            raise FileTooLarge(item.path, item.size_bytes, most)
        with tempfile.TemporaryFile(dir=self.spool_dir) as spool:
            async with source.open(item) as opened:
                size, sha256 = await _spooled(opened.chunks, None if opened.place else spool, item, most)
                if opened.sha256 not in ("", sha256):
                    what = f"{item.path} has another SHA-256 than its source says"
                    raise SourceUnavailable("DIGEST_MISMATCH", what)
                header = FileHeader(found.draft.parent_id, item.path, size, sha256)
                if opened.place is not None:
                    await self.store_file.files.put_reference(found.owner_id, header, opened.place)
                    return size
            await self.store_file.store(found.owner_id, header, spool, found.allowance)
        return size


def _most_bytes(found: Import, item: ImportItem, most: int) -> int:
    """Returns how long a file may be: of an annotation file no more is taken than is read."""
    source = found.draft.source
    is_annotation = isinstance(source, AnnotationSource) and item.location == source.url
    return min(most, MAX_FILE_BYTES) if is_annotation else most


async def _spooled(
    chunks: AsyncIterator[bytes], spool: BinaryIO | None, item: ImportItem, most: int
) -> tuple[int, str]:
    """Reads a stream, into a file if there is one; returns its length in bytes and its SHA-256."""
    hasher, size, batch = hashlib.sha256(), 0, bytearray()

    def flush() -> None:
        hasher.update(batch)
        if spool is not None:
            spool.write(batch)
        batch.clear()

    async for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise SourceRefused(
                "FILE_TOO_LARGE", f"{item.path} has more than {most} bytes", "split it, or leave it out"
            )
        batch += chunk
        if len(batch) >= _BATCH_BYTES:
            await asyncio.to_thread(flush)
    await asyncio.to_thread(flush)
    return size, hasher.hexdigest()
