"""Servers on loopback that play hosts of the Internet, over real TLS, and a network that leads there."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpcore

from catalog_svc.domain.public_address import IpAddress
from reeltune_cli.stack.certificates import ensure_certificates

HOSTS = ("files.example", "other.example", "rebinding.example")
PUBLIC = "93.184.216.34"

Respond = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class PlayedInternet:
    """Resolves by a table, and dials the local server in the place of every public address."""

    port: int
    ca: Path
    answers: dict[str, list[list[str]]] = field(default_factory=dict)
    """By name: the addresses of the first look-up, of the second …; the last ones stay."""
    lookups: list[str] = field(default_factory=list)
    dialled: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """The heads of all requests."""
    names: list[str] = field(default_factory=list)
    """The server names of all TLS handshakes."""

    async def resolve(self, host: str, port: int) -> list[IpAddress]:
        self.lookups.append(host)
        answers = self.answers.get(host, [[PUBLIC]])
        texts = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ipaddress.ip_address(text) for text in texts]

    async def dial(self, address: IpAddress, port: int, timeout: float | None) -> httpcore.AsyncNetworkStream:
        self.dialled.append(str(address))
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.port, timeout=timeout)


@asynccontextmanager
async def played_internet(folder: Path, respond: Respond) -> AsyncIterator[PlayedInternet]:
    """Serves TLS for HOSTS; `respond` gets the path of a request and writes the whole answer."""
    files = ensure_certificates(folder, HOSTS)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    played = PlayedInternet(0, files.ca)
    context.sni_callback = lambda _socket, name, _context: played.names.append(name or "")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            played.requests.append(head)
            await respond(head.split()[1], writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    played.port = server.sockets[0].getsockname()[1]
    try:
        yield played
    finally:
        server.close()
