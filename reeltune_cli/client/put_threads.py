"""PUTs of stretches of files, by threads with sockets that block.

Encryption, sending and reading let other Python code run meanwhile; what an event loop would do for each packet, nobody
has to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import make_headers, parse_url

from reeltune_cli.client.daemon_threads import DaemonThreads
from reeltune_cli.client.errors import ClientError
from reeltune_cli.client.proxies import proxy_of

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
    """Some threads that send files. Use it as an async context manager: what is under way at its end is broken off.

    What cannot be, the search for a name and a connection that nobody answers, comes to nothing later, and keeps no
    process from ending.
    """

    def __init__(self, threads: int, ssl_context: SSLContext, *, uses_proxies: bool) -> None:
        """`uses_proxies`: those that the environment names are used."""
        self._threads = DaemonThreads(threads, "put")
        self._options: dict[str, Any] = {
            "maxsize": threads,
            "timeout": urllib3.Timeout(connect=_CONNECT_SECONDS, read=_SILENCE_SECONDS),
        }
        self._ssl_context = ssl_context
        self._uses_proxies = uses_proxies
        self._handles = _Handles()
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._buffers = threading.local()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.end()
        self._handles.break_off()
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
            ClientError: the file is shorter than that, or the environment names a proxy that cannot be used.
            OSError: it cannot be read.
        """
        loop = asyncio.get_running_loop()
        manager = self._manager(url)
        everything = {**headers, "Content-Length": str(size)}

        def chunks() -> Iterator[memoryview]:
            for chunk in self._read(file, offset, size):
                yield chunk
                if self._handles.are_broken_off:
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

        return await asyncio.wrap_future(self._threads.start(send))

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
        proxy = proxy_of(url) if self._uses_proxies else ""
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
        """Returns pools whose connections can be broken off from here, and have their time to send."""
        handles = self._handles

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                _give_time(self)

            def _new_conn(self) -> socket.socket:
                return handles.register(self, super()._new_conn())

            def close(self) -> None:
                handles.drop(self)
                super().close()

        class Encrypted(Plain, HTTPSConnection):
            pass

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class EncryptedPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Encrypted

        return {"http": PlainPool, "https": EncryptedPool}


def _give_time(connection: HTTPConnection) -> None:
    if connection.sock is not None:  # else its connecting's limit would be that of each chunk, too
        connection.sock.settimeout(_SILENCE_SECONDS)


class _Handles:
    """A second handle of each open socket, by which any thread may end what is under way there.

    A connection's own is another one before, in and after the handshake, wrapped twice behind some proxies, and closed
    by the thread that sends: its number may by then be that of another file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: dict[HTTPConnection, socket.socket] = {}
        self._are_broken_off = False

    @property
    def are_broken_off(self) -> bool:
        """Whether no socket is wanted any more."""
        return self._are_broken_off

    def register(self, connection: HTTPConnection, new: socket.socket) -> socket.socket:
        """Returns a connection's new socket.

        Raises:
            _Ended: none is wanted any more; it is closed.
        """
        with self._lock:
            if self._are_broken_off:
                new.close()
                raise _Ended
            self._handles[connection] = new.dup()
        return new

    def drop(self, connection: HTTPConnection) -> None:
        """Closes the handle of a connection that ends, which would else stay open with it."""
        with self._lock:
            handle = self._handles.pop(connection, None)
        if handle is not None:
            handle.close()

    def break_off(self) -> None:
        """Ends what is under way, and what comes."""
        with self._lock:
            self._are_broken_off = True
            for handle in self._handles.values():
                with contextlib.suppress(OSError):  # the other side has done so already
                    handle.shutdown(socket.SHUT_RDWR)
