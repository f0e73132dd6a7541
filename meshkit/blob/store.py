"""One bucket of an S3 store, over the blocking `minio` client in a bounded pool of threads."""

from __future__ import annotations

import asyncio
import builtins
import io
import itertools
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from xml.etree import ElementTree

import certifi
import structlog
import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.datatypes import Part
from minio.error import MinioException, S3Error

from meshkit.blob.presign import REGION, PresignKey, presign
from meshkit.blob.verified_put import VerifiedPut, find_leniency, presign_verified_put
from meshkit.ids import new_id

_TRIALS = "trials/"
_LONGEST_TRIAL = timedelta(minutes=10)
_COPY_BYTES = 512 * 1024 * 1024
_SHA256_BYTES = 32
_MAX_CONNECT_SECONDS = 5
_MAX_READ_SECONDS = 60
# Every request of this class may be repeated: names are unique, and what a first try has done the second finds done.
_RETRIES = urllib3.Retry(
    total=4, backoff_factor=0.2, backoff_jitter=0.3, status_forcelist=[500, 502, 503, 504], allowed_methods=None
)
_NOT_FOUND = frozenset({"NoSuchKey", "NoSuchUpload", "NoSuchBucket", "NotFound", "ResourceNotFound"})
_T = TypeVar("_T")


class BlobError(Exception):
    """The store refused a request."""


class BlobNotFound(BlobError):
    """There is no such object or upload."""


class BlobUnavailable(BlobError):
    """The store does not answer, or says that it cannot at the moment."""


@dataclass(frozen=True, slots=True)
class BlobStat:
    """What is known of an object without reading it."""

    key: str
    size: int
    etag: str
    modify_time: datetime | None
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What was given as `metadata`, with lower-case names."""
    sha256: str | None = None
    """64 hexadecimal digits, as the store found them; None if it was not asked, or knows none of the whole object."""


@dataclass(frozen=True, slots=True)
class BlobPart:
    """A part of a multipart upload that has arrived."""

    number: int
    etag: str
    size: int


class BlobStore:
    """Reads, writes and presigns the objects of one bucket; keys are chosen by the service, never by a client."""

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        *,
        public_url: str | None = None,
        secure: bool = False,
        ca_file: Path | None = None,
        max_threads: int = 8,
    ) -> None:
        """Connects to nothing yet. `ca_file` is the PEM of the authority that the store's certificate comes from.

        `public_url` is where clients reach the store, e.g. `https://127.0.0.1:8443/s3`; by default the endpoint itself.
        """
        self.bucket = bucket
        self._threads = ThreadPoolExecutor(max_threads, thread_name_prefix="blob")
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=_MAX_CONNECT_SECONDS, read=_MAX_READ_SECONDS),
            maxsize=max_threads,
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(ca_file) if ca_file else certifi.where(),
            retries=_RETRIES,
        )
        # With the region given, the client never asks the store for it: presigning works while the store is down.
        self._client = Minio(endpoint, access_key, secret_key, secure=secure, region=REGION, http_client=self._http)
        own_url = f"{'https' if secure else 'http'}://{endpoint}"
        self._presign_key = PresignKey(access_key, secret_key, public_url or own_url)
        self._own_key = PresignKey(access_key, secret_key, own_url)

    async def close(self) -> None:
        """Closes the connections; running requests are finished first."""
        await asyncio.to_thread(self._threads.shutdown)
        self._http.clear()

    async def ensure_bucket(self) -> None:
        """Creates the bucket if it is not there."""

        def ensure() -> None:
            try:
                self._client.make_bucket(self.bucket)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

        await self._run(ensure)

    async def put_bytes(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Writes an object in one request; readers see the old one or the new one."""
        await self._run(
            lambda: self._client.put_object(
                self.bucket, key, io.BytesIO(data), len(data), content_type, dict(metadata or {})
            )
        )

    async def put_file(
        self,
        key: str,
        path: Path,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Writes a file as an object, in parts if it is large; it appears when the last part is there."""
        await self._run(
            lambda: self._client.fput_object(self.bucket, key, str(path), content_type, dict(metadata or {}))
        )

    async def put_if_absent(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> bool:
        """Writes an object unless the key is taken (`If-None-Match: *`); tells whether it was written."""
        headers: Any = {"Content-Type": content_type, "If-None-Match": "*"}

        def put() -> bool:
            try:
                # The public put_object takes no conditional headers.
                self._client._put_object(self.bucket, key, data, headers)
            except S3Error as error:
                if error.code == "PreconditionFailed":
                    return False
                raise
            return True

        return await self._run(put)

    async def get_bytes(self, key: str, *, max_bytes: int = 64 * 1024 * 1024) -> bytes:
        """Returns a whole object.

        Raises:
            BlobNotFound: there is no such object.
            BlobError: it is larger than `max_bytes`.
        """

        def get() -> bytes:
            with closing(self._client.get_object(self.bucket, key)) as response:
                data = response.read(max_bytes + 1)
                response.release_conn()
            if len(data) > max_bytes:
                raise BlobError(f"object {key} is larger than {max_bytes} bytes")
            return bytes(data)

        return await self._run(get)

    async def get_file(self, key: str, path: Path) -> None:
        """Writes an object to a file, which appears whole or not at all."""
        await self._run(lambda: self._client.fget_object(self.bucket, key, str(path)))

    async def iter_bytes(
        self, key: str, *, offset: int = 0, chunk_size: int = 1024 * 1024
    ) -> AsyncGenerator[bytes, None]:
        """Yields an object from `offset` on, in chunks of at most `chunk_size` bytes."""
        response = await self._run(lambda: self._client.get_object(self.bucket, key, offset=offset))
        try:
            while chunk := await self._run(lambda: response.read(chunk_size)):
                yield chunk
        finally:
            response.close()
            response.release_conn()

    async def stat(self, key: str, *, with_sha256: bool = False) -> BlobStat:
        """Returns what is known of an object. Raises BlobNotFound."""
        headers: Any = {"x-amz-checksum-mode": "ENABLED"} if with_sha256 else None
        found = await self._run(lambda: self._client.stat_object(self.bucket, key, extra_headers=headers))
        return _stat(key, found)

    async def list(self, prefix: str = "") -> list[BlobStat]:
        """Returns all objects whose keys begin with `prefix`, in order of key (without content type and metadata)."""
        found = await self._run(lambda: list(self._client.list_objects(self.bucket, prefix, recursive=True)))
        return [_stat(item.object_name or "", item) for item in found]

    async def list_page(self, prefix: str, after: str, limit: int) -> builtins.list[BlobStat]:
        """Returns at most `limit` objects whose keys begin with `prefix` and come after `after`, in order of key."""

        def list_some() -> builtins.list[Any]:
            found = self._client.list_objects(self.bucket, prefix, recursive=True, start_after=after or None)
            return list(itertools.islice(found, limit))

        return [_stat(item.object_name or "", item) for item in await self._run(list_some)]

    async def remove(self, key: str) -> None:
        """Deletes an object; one that is not there is no error."""
        await self._run(lambda: self._client.remove_object(self.bucket, key))

    async def remove_prefix(self, prefix: str) -> int:
        """Deletes all objects whose keys begin with `prefix`; returns how many. The prefix must end with `/`."""
        if not prefix.endswith("/"):
            raise ValueError(f"prefix {prefix!r} does not end with '/': it could match a neighbour's objects")
        found = await self.list(prefix)
        for item in found:
            await self.remove(item.key)
        return len(found)

    def presign_get(self, key: str, ttl: timedelta, *, filename: str | None = None) -> str:
        """Returns a URL to download an object; `filename` is what a browser will call it.

        The answer has no header that whoever sent the object has chosen: the store keeps those of a PUT.
        """
        query = {
            "response-cache-control": f"private, max-age={int(ttl.total_seconds())}",
            "response-content-disposition": f'attachment; filename="{filename}"' if filename else "inline",
            "response-content-language": "und",
            "response-expires": "0",
        }
        return presign(self._presign_key, "GET", self._path(key), ttl, query=query)

    def presign_put(self, key: str, ttl: timedelta, *, length: int | None = None) -> str:
        """Returns a URL to upload an object in one request; of exactly `length` bytes if given."""
        return presign(self._presign_key, "PUT", self._path(key), ttl, headers=_length_header(length))

    def presign_verified_put(self, key: str, ttl: timedelta, *, length: int, sha256: str) -> VerifiedPut:
        """Returns a PUT that succeeds for these bytes only, and only if there is no such object yet.

        Whether that holds depends on the store: see `find_leniency`.
        """
        return presign_verified_put(self._presign_key, self._path(key), ttl, length=length, sha256=sha256)

    async def find_leniency(self) -> str | None:
        """Tries whether the store verifies what `presign_verified_put` asks it to; returns what it fails at, or None.

        Leaves nothing behind, if it may list and delete; what a trial left that was killed goes with the next one.

        Raises:
            BlobUnavailable: it does not answer, or says that it cannot at the moment.
        """
        key = f"{_TRIALS}{new_id('try')}"
        other = f"{key}.other"
        try:
            return await self._run(lambda: find_leniency(self._http, self._own_key, self._path(key), self._path(other)))
        finally:
            try:
                await self._clear_trials(key, other)
            except BlobError as error:  # a few bytes that lie about keep nobody from anything
                structlog.get_logger().warning("blob.trial_left", prefix=_TRIALS, error=str(error))

    async def _clear_trials(self, *keys: str) -> None:
        for key in keys:
            await self.remove(key)
        for left in await self.list(_TRIALS):
            if left.modify_time is not None and datetime.now(UTC) - left.modify_time > _LONGEST_TRIAL:
                await self.remove(left.key)

    async def create_multipart(self, key: str, *, content_type: str = "application/octet-stream") -> str:
        """Starts a multipart upload and returns its id."""
        headers: Any = {"Content-Type": content_type}
        return await self._run(lambda: self._client._create_multipart_upload(self.bucket, key, headers))

    def presign_part(self, key: str, upload_id: str, number: int, ttl: timedelta, *, length: int | None = None) -> str:
        """Returns a URL to PUT part `number` (1 to 10000); the response's ETag header completes the upload."""
        return presign(
            self._presign_key,
            "PUT",
            self._path(key),
            ttl,
            query={"partNumber": str(number), "uploadId": upload_id},
            headers=_length_header(length),
        )

    async def put_part(self, key: str, upload_id: str, number: int, data: bytes) -> None:
        """Writes part `number` of a multipart upload. Raises BlobNotFound for an unknown upload."""
        # The signed digest has the store check what arrived.
        headers: Any = {"Content-MD5": b64encode(md5(data, usedforsecurity=False).digest()).decode()}
        await self._run(lambda: self._client._upload_part(self.bucket, key, data, headers, upload_id, number))

    async def list_parts(self, key: str, upload_id: str) -> builtins.list[BlobPart]:
        """Returns the parts that have arrived, by number. Raises BlobNotFound for an unknown upload."""

        def list_all() -> builtins.list[BlobPart]:
            found: builtins.list[BlobPart] = []
            marker = None
            while True:
                page = self._client._list_parts(self.bucket, key, upload_id, part_number_marker=marker)
                found += [BlobPart(part.part_number, part.etag.strip('"'), part.size or 0) for part in page.parts]
                if not page.is_truncated or not page.parts:
                    return found
                marker = str(page.next_part_number_marker or found[-1].number)

        return await self._run(list_all)

    async def copy(self, source: str, target: str) -> None:
        """Copies an object within the store, in parts if it is large; the bytes do not pass through here.

        Raises:
            BlobNotFound: there is no such object.
        """
        size = (await self.stat(source)).size
        if size <= _COPY_BYTES:
            await self._run(lambda: self._client.copy_object(self.bucket, target, CopySource(self.bucket, source)))
            return
        # One request copies at most 5 GiB, and a store that copies for minutes without a word looks dead before that.
        upload_id = await self.create_multipart(target)
        try:
            etags = []
            for number, offset in enumerate(range(0, size, _COPY_BYTES), start=1):
                etags.append((number, await self._copy_part(source, target, upload_id, number, offset, size)))
            await self.complete_multipart(target, upload_id, etags)
        except BaseException:
            await self.abort_multipart(target, upload_id)
            raise

    async def _copy_part(self, source: str, target: str, upload_id: str, number: int, offset: int, size: int) -> str:
        last = min(offset + _COPY_BYTES, size) - 1
        headers: Any = {
            "x-amz-copy-source": quote(f"/{self.bucket}/{source}"),
            "x-amz-copy-source-range": f"bytes={offset}-{last}",
        }
        etag, _ = await self._run(
            lambda: self._client._upload_part_copy(self.bucket, target, upload_id, number, headers)
        )
        return etag

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """Makes the object from its parts, given as (number, ETag). Raises BlobNotFound for an unknown upload."""
        ordered = [Part(number, etag.strip('"')) for number, etag in sorted(parts)]
        await self._run(lambda: self._client._complete_multipart_upload(self.bucket, key, upload_id, ordered))

    async def list_multipart(self, prefix: str = "") -> builtins.list[tuple[str, str]]:
        """Returns up to 1,000 multipart uploads under way whose keys begin with `prefix`, as (key, upload id).

        Whoever aborts them all asks again: not every store can go on from a place in the list.
        """
        found = await self._run(lambda: self._client._list_multipart_uploads(self.bucket, prefix=prefix))
        return [(upload.object_name, upload.upload_id or "") for upload in found.uploads]

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Drops a multipart upload and its parts; one that is not there is no error."""

        def abort() -> None:
            try:
                self._client._abort_multipart_upload(self.bucket, key, upload_id)
            except S3Error as error:
                if error.code not in _NOT_FOUND:
                    raise

        await self._run(abort)

    def _path(self, key: str) -> str:
        return f"/{self.bucket}/{key}"

    async def _run(self, work: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, work)
        except S3Error as error:
            if error.code in _NOT_FOUND:
                raise BlobNotFound(f"no such object or upload: {error.object_name or error.bucket_name}") from error
            if error.code in ("SlowDown", "ServiceUnavailable", "InternalError"):
                raise BlobUnavailable(f"the object store answers {error.code}") from error
            raise BlobError(f"the object store answers {error.code}: {error.message}") from error
        except (urllib3.exceptions.HTTPError, MinioException, ConnectionError) as error:
            raise BlobUnavailable(f"the object store does not answer: {type(error).__name__}") from error
        except (ElementTree.ParseError, UnicodeDecodeError) as error:
            # The client library reads answers as they come: one that was cut or damaged on its way is no answer.
            raise BlobUnavailable(f"the object store's answer cannot be read: {type(error).__name__}") from error


def _length_header(length: int | None) -> dict[str, str] | None:
    return None if length is None else {"content-length": str(length)}


def _stat(key: str, found: Any) -> BlobStat:
    metadata = {
        name.lower().removeprefix("x-amz-meta-"): str(value)
        for name, value in (found.metadata or {}).items()
        if name.lower().startswith("x-amz-meta-")
    }
    return BlobStat(
        key=key,
        size=found.size or 0,
        etag=(found.etag or "").strip('"'),
        modify_time=found.last_modified,
        content_type=found.content_type or "",
        metadata=metadata,
        sha256=_hexadecimal((found.metadata or {}).get("x-amz-checksum-sha256", "")),
    )


def _hexadecimal(checksum: str) -> str | None:
    try:
        digest = b64decode(checksum, validate=True)
    except ValueError:  # that of an object in parts has their number behind it, and is not that of the bytes
        return None
    return digest.hex() if len(digest) == _SHA256_BYTES else None
