"""An HTTP proxy before an S3 server that answers 503, is slow, cuts bodies, damages them, or sends things twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.tcp_proxy import LOOPBACK

_CHUNK = 64 * 1024
_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n"
    b"Connection: close\r\n\r\n"
)
_BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class StoreFaults:
    """What happens to requests; shares are of all requests of that kind, from 0 to 1."""

    refused: float = 0.0
    """Answered with 503, unseen by the store."""
    refused_after: float = 0.0
    """Carried out by the store and answered with 503 nevertheless."""
    uploads_cut: float = 0.0
    """PUTs whose connection breaks half way through the body."""
    downloads_cut: float = 0.0
    """GETs whose connection breaks half way through the body."""
    downloads_damaged: float = 0.0
    """GETs of which one byte is changed."""
    uploads_repeated: float = 0.0
    """PUTs that reach the store twice."""
    latency_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    head: bytes
    body: bytes
    length: int

    @property
    def is_whole(self) -> bool:
        return len(self.body) == self.length


@dataclass(eq=False)
class StoreProxy:
    """The proxy. Signatures stay good: host and path are passed on as they came."""

    upstream_port: int
    seed: int = 0
    faults: StoreFaults = field(default_factory=StoreFaults)
    done: Counter[str] = field(default_factory=Counter)
    """How often each fault was done, and under `requests` how many came."""
    port: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        """`http://host:port`."""
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self, port: int = 0) -> StoreProxy:
        """Listens, on a free port unless told otherwise."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Ends everything."""
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def begin_chance_with(self, seed: int) -> None:
        """Has what happens by chance begin anew."""
        self._dice = random.Random(seed)

    def heal(self) -> None:
        """Ends every fault."""
        self.faults = StoreFaults()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request per connection: whatever follows a fault begins anew."""
        request = await _read_request(reader, writer)
        faults = self.faults
        self.done["requests"] += 1
        await asyncio.sleep(faults.latency_seconds)
        if self._happens("refused", faults.refused):
            return await _refuse(writer)
        if request.method == "PUT" and self._happens("uploads_cut", faults.uploads_cut):
            await self._send(request, len(request.body) // 2)
            return writer.transport.abort()
        if request.method == "PUT" and self._happens("uploads_repeated", faults.uploads_repeated):
            await self._send(request, request.length)
        answer = await self._send(request, request.length)
        if self._happens("refused_after", faults.refused_after):
            return await _refuse(writer)
        return await self._pass_on(request, answer, writer)

    async def _pass_on(self, request: _Request, answer: bytes, writer: asyncio.StreamWriter) -> None:
        head, separator, body = answer.partition(b"\r\n\r\n")
        is_content = request.method == "GET" and head.startswith(b"HTTP/1.1 20") and len(body) > 1
        if is_content and self._happens("downloads_cut", self.faults.downloads_cut):
            writer.write(head + separator + body[: len(body) // 2])
            await writer.drain()
            return writer.transport.abort()
        if is_content and self._happens("downloads_damaged", self.faults.downloads_damaged):
            place = self._dice.randrange(len(body))
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        writer.write(head + separator + body)
        return await writer.drain()

    async def _send(self, request: _Request, body_bytes: int) -> bytes:
        """Sends the request, or the first part of it, and returns all that the store says."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.upstream_port)
        try:
            writer.write(request.head + request.body[:body_bytes])
            await writer.drain()
            if body_bytes < request.length:
                writer.transport.abort()
                return b""
            return await reader.read()
        finally:
            writer.close()

    def _happens(self, name: str, share: float) -> bool:
        # Dice are thrown for a fault that is on only: the others' order stays as the seed gave it.
        if share and self._dice.random() < share:
            self.done[name] += 1
            return True
        return False


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Request:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if b"transfer-encoding" in headers:
        raise NotImplementedError("a request in chunks: nobody here sends one")
    if headers.get(b"expect", b"").lower() == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(headers.get(b"content-length", b"0"))
    kept = [line for line in lines if line.partition(b":")[0].lower() not in (b"connection", b"expect")]
    body = await reader.readexactly(length)
    method = lines[0].split(b" ")[0].decode()
    return _Request(method, b"\r\n".join((*kept, b"Connection: close", b"", b"")), body, length)


async def _refuse(writer: asyncio.StreamWriter) -> None:
    writer.write(_UNAVAILABLE.replace(b"{length}", str(len(_BODY)).encode()) + _BODY)
    await writer.drain()
