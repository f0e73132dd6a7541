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

from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.backoff import Backoff
from trainer_svc.domain.errors import DigestMismatchError, StorageUnavailableError, UrlExpiredError

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
            DigestMismatchError: the bytes differ from what was promised, more than once.
            StorageUnavailableError: the store does not deliver, or there is no room here.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        building = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            await self._retried(file.path, lambda: self._get(file, building))
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

    async def _retried(self, name: str, transfer: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(first=self._first_delay, longest=10.0)
        while True:
            try:
                return await transfer()
            except (httpx.TransportError, StorageUnavailableError) as error:
                if not _may_help_again(error) or backoff.failures + 1 >= self._tries:
                    raise _given_up(name, error) from error
                await asyncio.sleep(backoff.next_delay())

    async def _get(self, file: RemoteFile, building: Path) -> None:
        digest = hashlib.sha256()
        size = 0
        async with self._client.stream("GET", file.url) as response:
            _check_status(response, file.path)
            with _open(building, "wb") as sink:
                async for chunk in response.aiter_raw(_CHUNK_BYTES):
                    size += len(chunk)
                    # A store that sends more than was promised must not fill the disk.
                    if size > file.size_bytes:
                        break
                    digest.update(chunk)
                    sink.write(chunk)
        if size != file.size_bytes or digest.hexdigest() != file.sha256:
            raise DigestMismatchError(f"{file.path} arrived with {size} bytes that are not those expected")

    async def _put(self, source: Path, file: RemoteFile) -> None:
        headers = {"Content-Length": str(file.size_bytes)}
        response = await self._client.put(file.url, content=_chunks(source), headers=headers)
        _check_status(response, file.path)


def open_http_client(tls_ca: Path | None) -> httpx.AsyncClient:
    """A client that trusts `tls_ca` (PEM; None: the system's authorities) and ignores the environment's proxies."""
    context = ssl.create_default_context(cafile=str(tls_ca) if tls_ca else None)
    return httpx.AsyncClient(verify=context, trust_env=False, timeout=_TIMEOUT, limits=_LIMITS, follow_redirects=False)


def _open(path: Path, mode: str) -> BinaryIO:
    return cast(BinaryIO, path.open(mode))


async def _chunks(source: Path) -> AsyncIterator[bytes]:
    with _open(source, "rb") as stream:
        while chunk := await asyncio.to_thread(stream.read, _CHUNK_BYTES):
            yield chunk


def _check_status(response: httpx.Response, path: str) -> None:
    """Raises for everything but success. Neither URL nor body is quoted: both may hold secrets."""
    if response.is_success:
        return
    if response.status_code == httpx.codes.FORBIDDEN:
        raise UrlExpiredError(f"the object store refuses the URL of {path}")
    raise StoreAnswerError(f"the object store answers {response.status_code} for {path}", response.status_code)


def _may_help_again(error: Exception) -> bool:
    if isinstance(error, StoreAnswerError):
        return error.status in _TRY_AGAIN
    return not isinstance(error, UrlExpiredError)


def _given_up(name: str, error: Exception) -> StorageUnavailableError:
    if isinstance(error, StorageUnavailableError):
        return error
    return StorageUnavailableError(f"{name} could not be transferred: {type(error).__name__}")
