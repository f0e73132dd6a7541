"""A keep-alive HTTP client that costs next to nothing, so that what is measured is the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.load import Call

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"


@asynccontextmanager
async def http_call(port: int, path: str, token: str, body: bytes, wanted: int) -> AsyncIterator[Call]:
    """Gives a call that POSTs the same JSON on one connection; an answer other than `wanted` raises RuntimeError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = b"\r\n".join(
        (
            f"POST {path} HTTP/1.1".encode(),
            b"Host: 127.0.0.1",
            f"Authorization: Bearer {token}".encode(),
            b"Content-Type: application/json",
            f"Content-Length: {len(body)}".encode(),
            b"",
            body,
        )
    )

    async def call() -> bytes:
        writer.write(request)
        head = await reader.readuntil(_END_OF_HEAD)
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(_LENGTH))
        answer = await reader.readexactly(int(length.removeprefix(_LENGTH)))
        if head.split(b" ", 2)[1] != str(wanted).encode():
            raise RuntimeError(f"{head.decode()}{answer.decode()}")
        return answer

    try:
        yield call
    finally:
        writer.close()
