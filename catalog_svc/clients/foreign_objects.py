"""Clips that were imported by reference: read where they are, as long as they are what they were."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from catalog_svc.clients.guarded_http import GuardedHttp
from catalog_svc.clients.sources.bucket import Bucket
from catalog_svc.domain.content import ContentPlace
from catalog_svc.domain.errors import LocationNotFound, ReferenceBroken, SecretsNotConfigured, SourceRefused
from catalog_svc.domain.storage import LocationId, OpenLocation


@dataclass(frozen=True, slots=True)
class ForeignObjects:
    """Reads objects in users' own buckets.

    Every method raises ReferenceBroken for an object that is gone, changed or closed, and SourceUnavailable for a store
    that does not answer.
    """

    http: GuardedHttp
    open_location: Callable[[LocationId], Awaitable[OpenLocation]]

    async def url(self, place: ContentPlace) -> str:
        """Returns where to GET an object, once it is known to be unchanged; a secret."""
        bucket = await self._bucket(place)
        try:
            await bucket.check_unchanged(place.object_key, place.etag)
        except SourceRefused as error:
            raise ReferenceBroken(place.object_key, error.reason) from error
        return bucket.url(place.object_key)

    async def read(self, place: ContentPlace, max_bytes: int) -> bytes:
        """Returns an object of at most that length."""
        bucket = await self._bucket(place)
        try:
            async with bucket.read(place.object_key, place.etag, max_bytes) as response:
                return await response.read()
        except SourceRefused as error:
            raise ReferenceBroken(place.object_key, error.reason) from error

    async def download(self, place: ContentPlace, size_bytes: int, path: Path) -> None:
        """Writes an object to a file."""
        bucket = await self._bucket(place)
        try:
            async with bucket.read(place.object_key, place.etag, size_bytes) as response:
                with path.open("wb") as file:
                    async for chunk in response.body():
                        await asyncio.to_thread(file.write, chunk)
        except SourceRefused as error:
            raise ReferenceBroken(place.object_key, error.reason) from error

    async def _bucket(self, place: ContentPlace) -> Bucket:
        try:
            return Bucket(self.http, await self.open_location(LocationId(place.location_id or "")))
        except (LocationNotFound, SecretsNotConfigured) as error:
            raise ReferenceBroken(place.object_key, "STORAGE_LOCATION_NOT_FOUND") from error
