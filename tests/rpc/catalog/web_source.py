"""A small web server that sources are played by, on loopback: files, and what else happens on the web."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from reeltune_cli.stack.certificates import EdgeCertificates


@dataclass
class WebSource:
    """Files by path; everything else is a 404."""

    port: int = 0
    scheme: str = "http"
    files: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)
    """By path: the statuses of the first requests."""
    redirects: dict[str, str] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    """By path: the answer waits for the event."""
    endless: dict[str, bytes] = field(default_factory=dict)
    """By path: the beginning of an answer of unknown length that goes on in one line until nobody reads it."""
    endless_bytes: int = 0
    """How many of them were sent."""
    requests: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}{path}"

    def add_hub_repository(self, folder: str, repository: str, commit: str, files: Mapping[str, bytes]) -> None:
        """Plays a hub's repository: `folder` is `models` or `datasets`."""
        siblings = [
            {"rfilename": path, "size": len(data), "lfs": {"sha256": hashlib.sha256(data).hexdigest()}}
            for path, data in files.items()
        ]
        info = json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
        prefix = "" if folder == "models" else "/datasets"
        for revision in ("main", commit):
            self.files[f"/api/{folder}/{repository}/revision/{revision}"] = info
        for path, data in files.items():
            self.files[f"/cdn/{commit}/{path}"] = data
            self.redirects[f"{prefix}/{repository}/resolve/{commit}/{path}"] = self.url(f"/cdn/{commit}/{path}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(unquote(urlsplit(head.split()[1].decode()).path), writer)
                await writer.drain()
        writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        self.requests.append(path)
        if path in self.gates:
            await self.gates[path].wait()
        if self.failures.get(path):
            writer.write(_reply(self.failures[path].pop(0)))
        elif path in self.redirects:
            writer.write(_reply(302, b"", f"location: {self.redirects[path]}"))
        elif path in self.endless:
            await self._send_endlessly(self.endless[path], writer)
        elif path in self.files:
            writer.write(_reply(200, self.files[path]))
        else:
            writer.write(_reply(404))

    async def _send_endlessly(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n")
        piece = b"x" * 1024 * 1024
        for chunk in itertools.chain([head], itertools.repeat(piece)):
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()  # ends by an error when the other side has had enough
            self.endless_bytes += len(chunk)


@asynccontextmanager
async def web_source(certificates: EdgeCertificates | None = None) -> AsyncIterator[WebSource]:
    """Runs a server on a free port; with certificates it speaks TLS."""
    context = None
    if certificates is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.certificate, certificates.key)
    source = WebSource(scheme="https" if context else "http")
    server = await asyncio.start_server(source.serve, "127.0.0.1", 0, ssl=context)
    source.port = server.sockets[0].getsockname()[1]
    try:
        yield source
    finally:
        server.close()


def _reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
