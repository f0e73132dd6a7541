"""Files from and to the object store, by presigned URLs only."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, cast

import httpx

from trainer_svc.domain.attempt import RemoteFile, RemotePart
from trainer_svc.domain.backoff import Backoff
from trainer_svc.domain.errors import (
    DigestMismatchError,
    FileGoneError,
    StorageUnavailableError,
    UrlExpiredError,
)

_CHUNK_BYTES = 1024 * 1024
_TIMEOUT = httpx.Timeout(connect=10.0, read=60.0, write=60.0, pool=600.0)
_LIMITS = httpx.Limits(max_connections=16, max_keepalive_connections=16)
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class StoreAnswerError(StorageUnavailableError):
    """The store answered with an HTTP error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Transfers:
    """Downloads and uploads, each checked by its SHA-256 and tried again while trying again can help."""

    def __init__(self, client: httpx.AsyncClient, *, tries: int = 6, first_delay: float = 0.3) -> None:
        self._client = client
        self._tries = tries
        self._first_delay = first_delay

    async def download(self, file: RemoteFile, target: Path) -> None:
        """GETs `file` into `target`, which appears only when it is whole and its digest is right.

        Raises:
            UrlExpiredError: the URL is refused.
            FileGoneError: there is no such file.
        DigestMismatchError: the bytes differ from what was promised, more than once.
            StorageUnavailableError: the store does not deliver, or there is no room here.
        """
        building = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            arrived = _Arrived()
            await self._retried(file.path, lambda: self._get(file, building, arrived), arrived)
            building.replace(target)
        except OSError as error:
            raise StorageUnavailableError(f"{file.path}: {error.strerror or error} on the trainer's disk") from error
        finally:
            building.unlink(missing_ok=True)

    async def upload(self, source: Path, file: RemoteFile) -> None:
        """PUTs `source` to the URL of `file`.

        Raises:
            UrlExpiredError, StorageUnavailableError.
        """
        try:
            await self._retried(file.path, lambda: self._put(source, file))
        except OSError as error:
            raise StorageUnavailableError(f"{file.path}: {error.strerror or error} on the trainer's disk") from error

    async def upload_part(self, source: Path, file: RemoteFile, part: RemotePart) -> None:
        """PUTs one part of `source`, read as it is sent.

        Raises:
            UrlExpiredError, StorageUnavailableError.
        """
        name = f"part {part.number} of {file.path}"
        try:
            await self._retried(name, lambda: self._put_part(source, name, part))
        except OSError as error:
            raise StorageUnavailableError(f"{name}: {error.strerror or error} on the trainer's disk") from error

    async def _retried(
        self, name: str, transfer: Callable[[], Awaitable[None]], arrived: _Arrived | None = None
    ) -> None:
        """Tries `tries` times; of a download, so many times in a row that bring nothing new."""
        backoff = Backoff(first=self._first_delay, longest=10.0)
        while True:
            before = arrived.size if arrived else 0
            try:
                return await transfer()
            except (httpx.TransportError, StorageUnavailableError) as error:
                if arrived and arrived.size > before:
                    backoff.reset()
                if not _may_help_again(error) or backoff.failures + 1 >= self._tries:
                    raise _given_up(name, error) from error
                await asyncio.sleep(backoff.next_delay())

    async def _get(self, file: RemoteFile, building: Path, arrived: _Arrived) -> None:
        """GETs what has not arrived yet."""
        headers = {"Range": f"bytes={arrived.size}-"} if arrived.size else {}
        async with self._client.stream("GET", file.url, headers=headers) as response:
            _check_status(response, file.path)
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                arrived.begin_anew()
            with _open(building, "ab") as sink:
                sink.truncate(arrived.size)
                async for chunk in response.aiter_raw(_CHUNK_BYTES):
                    # A store that sends more than was promised must not fill the disk.
                    if arrived.size + len(chunk) > file.size_bytes:
                        arrived.size += len(chunk)
                        break
                    sink.write(chunk)
                    arrived.add(chunk)
        if arrived.size != file.size_bytes or arrived.digest.hexdigest() != file.sha256:
            size = arrived.size
            arrived.begin_anew()
            raise DigestMismatchError(f"{file.path} arrived with {size} bytes that are not those expected")

    async def _put(self, source: Path, file: RemoteFile) -> None:
        headers = {"Content-Length": str(file.size_bytes)}
        response = await self._client.put(file.url, content=_chunks(source, 0, file.size_bytes), headers=headers)
        _check_status(response, file.path)

    async def _put_part(self, source: Path, name: str, part: RemotePart) -> None:
        headers = {"Content-Length": str(part.size_bytes)}
        content = _chunks(source, part.offset_bytes, part.size_bytes)
        response = await self._client.put(part.url, content=content, headers=headers)
        if response.status_code == httpx.codes.NOT_FOUND:
            raise UrlExpiredError(f"the object store does not know the upload of {name} any more")
        _check_status(response, name)


class _Arrived:
    """The beginning of a file that is on the disk already."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Nothing of it counts."""
        self.size = 0
        self.digest = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """So much more of it."""
        self.size += len(chunk)
        self.digest.update(chunk)


def open_http_client(tls_ca: Path | None) -> httpx.AsyncClient:
    """A client that trusts the system's authorities and `tls_ca` (PEM), and ignores the environment's proxies.

    Both: clips that were imported by reference are not behind the mesh's own edge.
    """
    context = ssl.create_default_context()
    if tls_ca:
        context.load_verify_locations(cafile=tls_ca)
    return httpx.AsyncClient(verify=context, trust_env=False, timeout=_TIMEOUT, limits=_LIMITS, follow_redirects=False)


def _open(path: Path, mode: str) -> BinaryIO:
    return cast(BinaryIO, path.open(mode))


async def _chunks(source: Path, offset: int, size: int) -> AsyncIterator[bytes]:
    with _open(source, "rb") as stream:
        stream.seek(offset)
        while size and (chunk := await asyncio.to_thread(stream.read, min(size, _CHUNK_BYTES))):
            size -= len(chunk)
            yield chunk


def _check_status(response: httpx.Response, path: str) -> None:
    """Raises for everything but success. Neither URL nor body is quoted: both may hold secrets."""
    if response.is_success:
        return
    if response.status_code == httpx.codes.NOT_FOUND:
        raise FileGoneError(f"{path} is not in the object store")
    if response.status_code == httpx.codes.FORBIDDEN:
        raise UrlExpiredError(f"the object store refuses the URL of {path}")
    raise StoreAnswerError(f"the object store answers {response.status_code} for {path}", response.status_code)


def _may_help_again(error: Exception) -> bool:
    if isinstance(error, StoreAnswerError):
        return error.status in _TRY_AGAIN
    return not isinstance(error, UrlExpiredError | FileGoneError)


def _given_up(name: str, error: Exception) -> StorageUnavailableError:
    if isinstance(error, StorageUnavailableError):
        return error
    return StorageUnavailableError(f"{name} could not be transferred: {type(error).__name__}")
