"""Many watchers of one job in a process of their own; prints what they saw as one JSON line.

Started by `watch_fanout` with one JSON argument. Says `ready` once every watcher has its first message, watches until
it reads a line, and then looks at what came. It speaks just enough HTTP/2 for this, because a thousand streams of
grpc.aio in one process would take more of the processor than what is measured.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from contextlib import ExitStack
from typing import Any, Final

from reeltune.scheduler.v1 import training_history_pb2 as history

RPC = "/reeltune.scheduler.v1.TrainingService/WatchTrainingJob"
READY_SECONDS = 60
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 1
_END_HEADERS, _PADDED = 4, 8
_WINDOW: Final = 2**31 - 1


class Watchers(asyncio.Protocol):
    """Streams on one connection; keeps the time and the bytes of each message."""

    def __init__(self, headers: list[tuple[str, str]], request: bytes, count: int) -> None:
        block = b"".join(literal(name) + literal(value, first=False) for name, value in headers)
        body = b"\0" + len(request).to_bytes(4, "big") + request
        streams = range(1, 2 * count, 2)
        self._opening = b"".join(
            frame(_HEADERS, _END_HEADERS, stream, block) + frame(_DATA, _END_STREAM, stream, body) for stream in streams
        )
        self._received = bytearray()
        self._partial: dict[int, bytearray] = {stream: bytearray() for stream in streams}
        self.messages: dict[int, list[tuple[float, bytes]]] = {stream: [] for stream in streams}
        self.waiting = count
        self.broken = 0
        self.ready = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        # No flow control: the reader is always ready for more.
        settings = (1).to_bytes(2, "big") + (0).to_bytes(4, "big") + (4).to_bytes(2, "big") + _WINDOW.to_bytes(4, "big")
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(_SETTINGS, 0, 0, settings)
            + frame(_WINDOW_UPDATE, 0, 0, (_WINDOW - 65535).to_bytes(4, "big"))
            + self._opening
        )

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self._received += data
        at, end = 0, len(self._received)
        while end - at >= 9:
            length = int.from_bytes(self._received[at : at + 3], "big")
            if end - at < 9 + length:
                break
            kind, flags = self._received[at + 3], self._received[at + 4]
            stream = int.from_bytes(self._received[at + 5 : at + 9], "big")
            self._frame(now, kind, flags, stream, bytes(self._received[at + 9 : at + 9 + length]))
            at += 9 + length
        del self._received[:at]

    def connection_lost(self, error: Exception | None) -> None:
        self.broken = len(self.messages)
        self.ready.set()

    def _frame(self, now: float, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._data(now, stream, payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(frame(_PING, _ACK, 0, payload))
        elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            self.broken += 1
            self.ready.set()

    def _data(self, now: float, stream: int, payload: bytes) -> None:
        partial, messages = self._partial[stream], self.messages[stream]
        partial += payload
        while len(partial) >= 5 and len(partial) >= (size := 5 + int.from_bytes(partial[1:5], "big")):
            messages.append((now, bytes(partial[5:size])))
            del partial[:size]
            if len(messages) == 1:
                self.waiting -= 1
                if not self.waiting:
                    self.ready.set()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(text: str, *, first: bool = True) -> bytes:
    """A string of a header as HPACK knows it, neither indexed nor compressed; `first` for a header's name."""
    raw, length = text.encode(), b""
    if len(raw) < 127:
        length = bytes((len(raw),))
    else:
        rest, length = len(raw) - 127, b"\x7f"
        while rest >= 128:
            length, rest = length + bytes((rest % 128 + 128,)), rest // 128
        length += bytes((rest,))
    return (b"\0" if first else b"") + length + raw


async def main(order: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    request = history.WatchTrainingJobRequest(job_id=order["job_id"], after_sequence=order["after"])
    headers = [
        (":method", "POST"),
        (":scheme", "https" if order["ca"] else "http"),
        (":path", RPC),
        (":authority", order["target"]),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", f"Bearer {order['token']}"),
    ]
    host, _, port = order["target"].rpartition(":")
    connections: list[Watchers] = []
    with ExitStack() as stack:
        for _ in range(order["connections"]):
            watchers = Watchers(headers, request.SerializeToString(), order["watchers"] // order["connections"])
            transport, _protocol = await loop.create_connection(
                lambda watchers=watchers: watchers, host, int(port), ssl=context(order["ca"])
            )
            stack.callback(transport.close)
            connections.append(watchers)
        async with asyncio.timeout(READY_SECONDS):
            await asyncio.gather(*(watchers.ready.wait() for watchers in connections))
        if broken := sum(watchers.broken for watchers in connections):
            sys.exit(f"{broken} of {order['watchers']} watches were refused")
        began = time.time()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        broken = sum(watchers.broken for watchers in connections)
    streams = [messages for watchers in connections for messages in watchers.messages.values()]
    print(json.dumps({**judged(streams, order["after"], began), "broken": broken}), flush=True)


def context(ca: str) -> ssl.SSLContext | None:
    """TLS as the edge wants it; None for none."""
    if not ca:
        return None
    made = ssl.create_default_context(cafile=ca)
    made.set_alpn_protocols(["h2"])
    return made


def judged(streams: list[list[tuple[float, bytes]]], after: int, began: float) -> dict[str, Any]:
    """The lags, in seconds from an event's time on record, and how many watchers missed or repeated something.

    What happened before all were there is history: it must be told, and its lag says nothing.
    """
    parsed: dict[bytes, history.WatchTrainingJobResponse] = {}
    lags: list[float] = []
    not_whole = 0
    for messages in streams:
        sequences = []
        for arrived, raw in messages:
            message = parsed.get(raw) or parsed.setdefault(raw, history.WatchTrainingJobResponse.FromString(raw))
            if message.HasField("event"):
                sequences.append(message.event.sequence)
                recorded = message.event.create_time.ToNanoseconds() / 1e9
                if recorded >= began:
                    lags.append(arrived - recorded)
        # The newest events were still on their way to some when it ended: no gap and no repeat is what counts.
        not_whole += sequences != list(range(after + 1, after + 1 + len(sequences)))
    return {"lags": sorted(round(lag, 6) for lag in lags), "not_whole": not_whole}


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
