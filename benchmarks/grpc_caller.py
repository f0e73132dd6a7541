"""A client of unary rpcs over plaintext HTTP/2 that costs next to nothing, so that what is measured is the server.

It knows as much of RFC 9113 and RFC 7541 as a gRPC server on loopback makes it need: one connection, header fields
sent as plain literals, no table of them on either side, and windows so wide that they never close.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_WIDEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_OK_TRAILER = b"\x0bgrpc-status\x010"
_FRAME_HEAD = 9


class GrpcCaller(asyncio.Protocol):
    """Calls one rpc, any number of times at once."""

    def __init__(self, path: str, metadata: Sequence[tuple[str, str]]) -> None:
        self._headers = _literals(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "127.0.0.1"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *metadata,
            ]
        )
        self._next_stream = 1
        self._received = bytearray()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._bodies: dict[int, bytes] = {}
        self._transport: asyncio.Transport | None = None

    def call(self, message: bytes) -> asyncio.Future[bytes]:
        """Sends a serialized request; the answer to come is the serialized response, or RuntimeError."""
        assert self._transport is not None
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        answer = self._answers[stream] = asyncio.get_running_loop().create_future()
        body = struct.pack(">BI", 0, len(message)) + message
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, stream, self._headers) + _frame(_DATA, _END_STREAM, stream, body)
        )
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _WIDEST_WINDOW)
        window = struct.pack(">I", _WIDEST_WINDOW - _DEFAULT_WINDOW)
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, window))

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= _FRAME_HEAD:
            end = _FRAME_HEAD + int.from_bytes(self._received[:3])
            if len(self._received) < end:
                return
            kind, flags = self._received[3], self._received[4]
            stream, payload = int.from_bytes(self._received[5:_FRAME_HEAD]), bytes(self._received[_FRAME_HEAD:end])
            del self._received[:end]
            self._take(kind, flags, stream, payload)

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in list(self._answers):
            self._settle(stream, RuntimeError(f"the connection ended: {exc}"))

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._transport is not None
        if kind == _DATA:
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
        elif kind == _HEADERS and flags & _END_STREAM:
            self._settle(stream, None if _OK_TRAILER in payload else RuntimeError(repr(payload)))
        elif kind == _RST_STREAM:
            self._settle(stream, RuntimeError("the server reset the stream"))
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _GOAWAY:
            self._transport.close()

    def _settle(self, stream: int, error: Exception | None) -> None:
        answer, body = self._answers.pop(stream), self._bodies.pop(stream, b"")
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(body[5:])


@asynccontextmanager
async def grpc_caller(port: int, path: str, metadata: Sequence[tuple[str, str]]) -> AsyncIterator[GrpcCaller]:
    """Connects to a server on loopback."""
    loop = asyncio.get_running_loop()
    transport, caller = await loop.create_connection(lambda: GrpcCaller(path, metadata), "127.0.0.1", port)
    try:
        yield caller
    finally:
        transport.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


def _literals(fields: Sequence[tuple[str, str]]) -> bytes:
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    """A string literal without Huffman coding, its length before it."""
    length, rest = len(text), bytearray()
    if length < 127:
        return bytes((length,)) + text.encode()
    length -= 127
    while length >= 128:
        rest.append(length % 128 + 128)
        length //= 128
    return b"\x7f" + bytes(rest) + bytes((length,)) + text.encode()
