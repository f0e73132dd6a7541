"""Objects of a bucket somewhere else. Every request goes through the guarded client, signed in its URL.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from catalog_svc.clients.guarded_http import GuardedHttp, Response
from catalog_svc.clients.sources.source import OpenFile
from catalog_svc.domain.clip import VIDEO_EXTENSIONS
from catalog_svc.domain.content import ContentPlace
from catalog_svc.domain.entry import EntryKind
from catalog_svc.domain.errors import SourceRefused, SourceUnavailable
from catalog_svc.domain.file_path import extension
from catalog_svc.domain.imports import ImportItem, item_of
from catalog_svc.domain.storage import LocationId, OpenLocation
from meshkit.blob import PresignKey, presign

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_TTL = timedelta(minutes=15)
_PAGE_KEYS = 1000
_MAX_PAGE_BYTES = 16 * 1024 * 1024
_MAX_REDIRECTS = {True: 0, False: 3}
"""A signed request is good for its own host only."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Reads one bucket."""

    http: GuardedHttp
    location: OpenLocation

    def url(self, key: str, query: Mapping[str, str] | None = None, *, method: str = "GET") -> str:
        """Returns where to read an object, or without a key the bucket; a secret, if the location has credentials."""
        place = self.location
        path = f"/{place.bucket}/{key}" if key else f"/{place.bucket}"
        if place.credentials is None:
            encoded = quote(path, safe="/-_.~")
            return f"{place.endpoint}{encoded}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        signer = PresignKey(
            place.credentials.access_key_id, place.credentials.secret_access_key, place.endpoint, place.region
        )
        return presign(signer, method, path, _TTL, query=query)

    @contextlib.asynccontextmanager
    async def read(self, key: str, etag: str = "", most: int | None = None) -> AsyncGenerator[Response, None]:
        """Gives an object; with an etag only that version of it. Raises SourceRefused `SOURCE_CHANGED` for another."""
        async with self._get(self.url(key), {"If-Match": f'"{etag}"'} if etag else {}, most) as response:
            if etag and response.etag and response.etag != etag:
                raise changed(key)
            yield response

    async def check_unchanged(self, key: str, etag: str) -> None:
        """Raises SourceRefused `SOURCE_CHANGED` unless the object is still that version."""
        async with self.http.get(self.url(key, method="HEAD"), method="HEAD", max_redirects=0) as response:
            if response.etag != etag:
                raise changed(key)

    async def list(self, prefix: str) -> AsyncIterator[list[tuple[str, int, str]]]:
        """Yields the objects under a prefix as (key, size in bytes, etag), a page at a time."""
        token = ""
        while True:
            query = {"list-type": "2", "max-keys": str(_PAGE_KEYS), "prefix": prefix}
            if token:
                query["continuation-token"] = token
            async with self._get(self.url("", query), {}, _MAX_PAGE_BYTES) as response:
                page = _parsed(await response.read())
            yield [_entry(element) for element in page.iterfind("{*}Contents")]
            token = page.findtext("{*}NextContinuationToken") or ""
            if page.findtext("{*}IsTruncated") != "true" or not token:
                return

    def _get(
        self, url: str, headers: Mapping[str, str], most: int | None = None
    ) -> contextlib.AbstractAsyncContextManager[Response]:
        redirects = _MAX_REDIRECTS[self.location.credentials is not None]
        return self.http.get(url, headers=headers, max_redirects=redirects, max_bytes=most)


@dataclass(frozen=True, slots=True)
class BucketFiles:
    """The objects under a prefix."""

    bucket: Bucket
    prefix: str
    kind: EntryKind
    location_id: LocationId | None = None
    """Of an import by reference."""

    async def pages(self) -> AsyncIterator[Sequence[ImportItem]]:
        async for page in self.bucket.list(self.prefix):
            found = []
            for key, size, etag in page:
                if key.endswith("/") and size == 0:  # how consoles mark a folder
                    continue
                item = item_of(self.kind, self._path(key), key, size, etag)
                if item is not None:
                    found.append(item)
            yield found

    @contextlib.asynccontextmanager
    async def open(self, item: ImportItem) -> AsyncGenerator[OpenFile, None]:
        async with self.bucket.read(item.location, item.etag) as response:
            place = None
            if self.location_id is not None and extension(item.path) in VIDEO_EXTENSIONS:
                place = self._place(item.location, response)
            yield OpenFile(response.body(), place=place)

    def _place(self, key: str, response: Response) -> ContentPlace:
        if not response.etag:
            what = f"the store gives no ETag for {key[:300]}, so a change of it would go unnoticed"
            raise SourceRefused("ETAG_MISSING", what, "import by copy")
        return ContentPlace(key, self.location_id, response.etag)

    def _path(self, key: str) -> str:
        """Returns the key without the folder that the prefix names or stands in."""
        folder = self.prefix
        if key.startswith(f"{self.prefix}/") and not self.prefix.endswith("/"):
            folder = f"{self.prefix}/"
        elif not self.prefix.endswith("/"):
            folder = self.prefix[: self.prefix.rfind("/") + 1]
        return key.removeprefix(folder)


def changed(key: str) -> SourceRefused:
    """Returns what is raised when an object is another than it was."""
    what = f"the object {key[:300]} is another than when it was imported"
    return SourceRefused("SOURCE_CHANGED", what, "put the former one back, or import it again")


def _parsed(data: bytes) -> Element:
    try:
        return fromstring(data)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise SourceUnavailable("SOURCE_ANSWER_INVALID", "the store's list of objects cannot be read") from error


def _entry(element: Element) -> tuple[str, int, str]:
    size = element.findtext("{*}Size") or ""
    if not size.isascii() or not size.isdigit():
        raise SourceUnavailable("SOURCE_ANSWER_INVALID", "the store's list of objects names one without a size")
    return element.findtext("{*}Key") or "", int(size), (element.findtext("{*}ETag") or "").strip('"')
