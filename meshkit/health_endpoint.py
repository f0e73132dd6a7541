"""What an orchestrator asks a container, by plain HTTP on a port of its own: is the process alive, may it be called.

A kubelet knows no gRPC over TLS, and a probe that starts a Python process for each question would cost more than the
answers of a small service. The event loop itself answers here, so a process whose loop hangs is not alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable

_ASK_SECONDS = 4.0
_MAX_REQUEST_BYTES = 4096


@contextlib.asynccontextmanager
async def health_endpoint(host: str, port: int, is_ready: Callable[[], bool]) -> AsyncIterator[int]:
    """Answers `GET /live` with 200 and `GET /ready` with 200 or 503 inside the block; gives the bound port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_ASK_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_response(head.split(b" ", 2)[:2], is_ready))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, host, port, limit=_MAX_REQUEST_BYTES)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


def _response(request: list[bytes], is_ready: Callable[[], bool]) -> bytes:
    match request:
        case [b"GET", b"/live"]:
            status, text = "200 OK", "alive"
        case [b"GET", b"/ready"]:
            status, text = ("200 OK", "ready") if is_ready() else ("503 Service Unavailable", "not ready")
        case _:
            status, text = "404 Not Found", "ask for /live or /ready"
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
    return f"{head}{text}".encode()


def main(target: str) -> int:
    """Asks a server of this container: 0 if it may be sent calls.

    `python -m meshkit.health_endpoint PORT` asks the endpoint above, with a URL in place of the port whatever is there.
    """
    url = target if "://" in target else f"http://127.0.0.1:{int(target)}/ready"
    # On loopback a container speaks to itself, whatever name its certificate is for.
    trust = ssl._create_unverified_context()  # noqa: S323
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    try:
        with opener.open(url, timeout=_ASK_SECONDS):
            return 0
    except (urllib.error.URLError, TimeoutError) as error:
        sys.stderr.write(f"not ready: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
