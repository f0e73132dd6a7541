"""A TCP proxy on loopback that can be told to misbehave: between any two processes of a mesh."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"
_CHUNK = 64 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Connection:
    """One client and the upstream that it is led to."""

    client: asyncio.StreamWriter
    upstream: asyncio.StreamWriter
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def reset(self) -> None:
        """Ends both sides as a crashed host does: with RST, whatever was under way."""
        for writer in (self.client, self.upstream):
            _reset(writer)


class FaultProxy:
    """Leads each connection to the first of its upstreams that takes it, beginning with another one each time.

    With several upstreams it stands where a load balancer would: who is cut off comes back at another replica.
    """

    def __init__(self, *upstream_ports: int) -> None:
        self.upstream_ports = list(upstream_ports)
        self.port = 0
        self.delay_seconds = 0.0
        """How long everything takes on its way, in each direction."""
        self.refuses = False
        """New connections are reset at once."""
        self.cut_after_bytes: int | None = None
        """Connections that are made now are reset after so many bytes from the upstream."""
        self._gates = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._connections: set[_Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._turn = 0
        self.heal()

    @property
    def target(self) -> str:
        """`host:port`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def start(self, port: int = 0) -> FaultProxy:
        """Listens, on a free port unless told otherwise."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, port, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Ends everything."""
        self._server.close()
        self.reset()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def partition(self, *, up: bool = True, down: bool = True) -> None:
        """Lets nothing through any more: to the upstreams, from them, or both; nobody is told.

        As in a network, what was sent arrives after `heal`, if the connection is still there then.
        """
        for direction, is_cut in (("up", up), ("down", down)):
            if is_cut:
                self._gates[direction].clear()

    def heal(self) -> None:
        """Ends every fault; what was held back goes on its way."""
        self.delay_seconds, self.refuses, self.cut_after_bytes = 0.0, False, None
        for gate in self._gates.values():
            gate.set()

    def reset(self) -> int:
        """Resets every open connection; returns how many there were."""
        broken = list(self._connections)
        for connection in broken:
            connection.reset()
        return len(broken)

    def half_close(self) -> int:
        """Ends the direction to the upstreams alone: they see an end and may go on talking. Returns how many."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.upstream.write_eof()
        return len(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._serving.discard(task)
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            return
        # A partition holds back the very first packet, too.
        await self._gates["up"].wait()
        opened = await self._open_upstream()
        if opened is None:
            return
        from_upstream, to_upstream = opened
        connection = _Connection(writer, to_upstream)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, to_upstream, "up", None))
                group.create_task(self._pump(from_upstream, writer, "down", self.cut_after_bytes))
        except* (OSError, RuntimeError):  # RuntimeError: more to say after `half_close` has ended the direction
            connection.reset()
        finally:
            self._connections.discard(connection)
            _close(to_upstream)
            _close(writer)

    async def _open_upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in self._in_turn():
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(LOOPBACK, port, limit=_CHUNK)
        return None

    def _in_turn(self) -> Iterator[int]:
        self._turn += 1
        ports = self.upstream_ports
        for offset in range(len(ports)):
            yield ports[(self._turn + offset) % len(ports)]

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str, limit: int | None
    ) -> None:
        passed = 0
        while data := await reader.read(_CHUNK):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            await self._gates[direction].wait()
            if limit is not None and passed + len(data) > limit:
                writer.write(data[: limit - passed])
                await writer.drain()
                raise ConnectionResetError("cut as ordered")
            writer.write(data)
            await writer.drain()
            passed += len(data)
        await self._gates[direction].wait()
        if not writer.is_closing():
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


def _close(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        writer.close()
