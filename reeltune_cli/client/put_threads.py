"""PUTs of stretches of files, by threads with sockets that block.

Encryption, sending and reading let other Python code run meanwhile; what an event loop would do for each packet, nobody
has to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import make_headers, parse_url

from reeltune_cli.client.errors import ClientError

_CHUNK_BYTES = 512 * 1024
"""Read and sent at once; so finely is progress told."""
_CONNECT_SECONDS = 10
_SILENCE_SECONDS = 60
"""For so long a chunk may be on its way, and an answer."""


class PutFailed(Exception):
    """The other side cannot be reached, or has broken off; the text says what happened."""


class _CannotRead(Exception):
    """A file cannot be read; wrapped, as any OSError that urllib3 meets is the connection's for it."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Ended(Exception):
    """Nobody waits for this PUT any more."""


class PutThreads:
    """Some threads that send files. Use it as an async context manager: what is under way at its end is broken off."""

    def __init__(self, threads: int, ssl_context: SSLContext, *, uses_proxies: bool) -> None:
        """`uses_proxies`: those that the environment names are used."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="put")
        self._options: dict[str, Any] = {
            "maxsize": threads,
            "timeout": urllib3.Timeout(connect=_CONNECT_SECONDS, read=_SILENCE_SECONDS),
        }
        self._ssl_context = ssl_context
        self._uses_proxies = uses_proxies
        self._connections: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._buffers = threading.local()
        self._has_ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            if connection.sock is not None:
                _break_off(connection.sock)
        for manager in self._managers.values():
            manager.clear()

    async def put(
        self,
        url: str,
        headers: Mapping[str, str],
        file: Path,
        offset: int,
        size: int,
        on_sent: Callable[[int], None],
    ) -> int:
        """Sends a stretch of a file, and returns the HTTP status of the answer.

        `on_sent` is called in this event loop's thread after each chunk, always before this returns or raises.

        Raises:
            PutFailed: no answer has come.
            ClientError: the file is shorter than that.
            OSError: it cannot be read.
        """
        loop = asyncio.get_running_loop()
        manager = self._manager(url)
        everything = {**headers, "Content-Length": str(size)}

        def chunks() -> Iterator[memoryview]:
            for chunk in self._read(file, offset, size):
                yield chunk
                if self._has_ended:
                    raise _Ended
                loop.call_soon_threadsafe(on_sent, len(chunk))

        def send() -> int:
            body: Any = chunks()  # urllib3 names bytes alone, and hands on whatever a socket takes
            try:
                return manager.request("PUT", url, body=body, headers=everything, retries=False).status
            except urllib3.exceptions.HTTPError as error:
                raise PutFailed(f"{type(error).__name__}: {error}") from error
            except _CannotRead as error:
                raise error.cause from None

        return await loop.run_in_executor(self._threads, send)

    def _read(self, file: Path, offset: int, size: int) -> Iterator[memoryview]:
        """Yields a stretch of a file; each chunk is good until the next one, as all are read into the same memory."""
        if not hasattr(self._buffers, "chunk"):
            self._buffers.chunk = memoryview(bytearray(_CHUNK_BYTES))
        chunk: memoryview = self._buffers.chunk
        try:
            with file.open("rb", buffering=0) as stream:
                stream.seek(offset)
                while size > 0:
                    count = stream.readinto(chunk[: min(size, _CHUNK_BYTES)])
                    if not count:
                        text = f"{file} became shorter during the upload"
                        raise ClientError(text, "FILE_CHANGED", "run the command again")
                    size -= count
                    yield chunk[:count]
        except OSError as error:
            raise _CannotRead(error) from error

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = _proxy_of(url) if self._uses_proxies else ""
        if proxy not in self._managers:
            self._managers[proxy] = self._new_manager(proxy)
        return self._managers[proxy]

    def _new_manager(self, proxy: str) -> urllib3.PoolManager:
        options = {**self._options, "ssl_context": self._ssl_context}
        if proxy:
            auth = parse_url(proxy).auth
            proxy_headers = make_headers(proxy_basic_auth=unquote(auth)) if auth else None
            manager: urllib3.PoolManager = urllib3.ProxyManager(proxy, proxy_headers=proxy_headers, **options)
        else:
            manager = urllib3.PoolManager(**options)
        manager.pool_classes_by_scheme = self._pool_classes()
        return manager

    def _pool_classes(self) -> dict[str, type[urllib3.HTTPConnectionPool]]:
        """Returns pools whose connections are known here, and have their time to send."""

        def prepare(connection: HTTPConnection) -> None:
            with self._lock:
                self._connections.add(connection)
            if connection.sock is not None:  # else its connecting's limit would be that of each chunk, too
                connection.sock.settimeout(_SILENCE_SECONDS)

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                prepare(self)

        class Encrypted(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                prepare(self)

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class EncryptedPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Encrypted

        return {"http": PlainPool, "https": EncryptedPool}


def _break_off(sock: socket.socket) -> None:
    """Ends the wait for a socket. Its TLS is left alone: another thread may be in the midst of it."""
    with contextlib.suppress(OSError):  # it is closed already
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _proxy_of(url: str) -> str:
    """Returns the proxy by which the environment wants an address to be reached, or the empty string."""
    address = urlsplit(url)
    if proxy_bypass(address.hostname or ""):
        return ""
    proxies = getproxies()
    return proxies.get(address.scheme) or proxies.get("all") or ""
