"""The proxies do what they are told, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from meshkit.blob import BlobStore
from meshkit.embedded import S3Server
from meshkit.testing import assert_eventually
from meshkit.testing.plugin import S3_IDENTITY
from tests.faults.store_proxy import StoreFaults, StoreProxy
from tests.faults.tcp_proxy import LOOPBACK, FaultProxy


@contextlib.asynccontextmanager
async def echo(prefix: bytes = b"") -> AsyncIterator[int]:
    """A server that says everything back; gives its port."""

    async def say_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(prefix + line)
            writer.write(b"bye\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(say_back, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def proxied(*ports: int) -> AsyncIterator[FaultProxy]:
    proxy = await FaultProxy(*ports).start()
    try:
        yield proxy
    finally:
        await proxy.close()


class Line:
    """A client's connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, proxy: FaultProxy) -> Line:
        return cls(*await asyncio.open_connection(LOOPBACK, proxy.port))

    async def ask(self, text: bytes, seconds: float = 5) -> bytes:
        self.writer.write(text + b"\n")
        async with asyncio.timeout(seconds):
            return (await self.reader.readline()).rstrip()


async def test_it_passes_everything_on_until_it_is_told_otherwise() -> None:
    async with echo() as port, proxied(port) as proxy:
        line = await Line.open(proxy)
        assert await line.ask(b"one") == b"one"

        line.writer.write_eof()

        assert await line.reader.read() == b"bye\n"
        await assert_eventually(lambda: proxy.connections == 0)


async def test_a_partition_holds_back_one_way_or_both_and_healing_delivers() -> None:
    async with echo() as port, proxied(port) as proxy:
        line = await Line.open(proxy)
        await line.ask(b"one")
        for ways in ({"up": True, "down": False}, {"up": False, "down": True}, {}):
            proxy.partition(**ways)
            with pytest.raises(TimeoutError):
                await line.ask(b"held back", seconds=0.1)
            proxy.heal()
            assert await line.reader.readline() == b"held back\n"


async def test_a_reset_is_an_error_and_a_half_close_an_end() -> None:
    async with echo() as port, proxied(port) as proxy:
        line = await Line.open(proxy)
        await line.ask(b"one")
        assert proxy.half_close() == 1
        assert await line.reader.readline() == b"bye\n"

        other = await Line.open(proxy)
        await other.ask(b"one")
        assert proxy.reset() >= 1
        with pytest.raises(ConnectionResetError):
            await other.reader.read()

        proxy.refuses = True
        refused = await Line.open(proxy)
        with pytest.raises(ConnectionResetError):
            await refused.reader.read()


async def test_a_connection_is_cut_after_so_many_bytes() -> None:
    async with echo() as port, proxied(port) as proxy:
        proxy.cut_after_bytes = 6
        line = await Line.open(proxy)
        assert await line.ask(b"one") == b"one"
        line.writer.write(b"two\n")

        with pytest.raises(ConnectionResetError):
            await line.reader.readexactly(4)


async def test_who_is_cut_off_comes_back_at_another_upstream() -> None:
    async with echo(b"a") as first, echo(b"b") as second, proxied(first, second) as proxy:
        heard = {await (await Line.open(proxy)).ask(b"") for _ in range(4)}
        assert heard == {b"a", b"b"}
    async with echo() as port, proxied(1, port) as proxy:
        assert [await (await Line.open(proxy)).ask(b"x") for _ in range(4)] == [b"x"] * 4


async def test_a_store_misbehaves_as_told_and_signatures_stay_good(s3_server: S3Server) -> None:
    proxy = await StoreProxy(s3_server.port).start()
    direct = BlobStore(s3_server.endpoint, S3_IDENTITY.access_key, S3_IDENTITY.secret_key, "test")
    store = BlobStore(proxy.endpoint.removeprefix("http://"), S3_IDENTITY.access_key, S3_IDENTITY.secret_key, "test")
    try:
        await store.ensure_bucket()
        content = bytes(range(256)) * 1000
        async with httpx.AsyncClient(trust_env=False) as client:
            put = store.presign_put("thing", timedelta(minutes=1), length=len(content))
            assert (await client.put(put, content=content)).status_code == 200
            get = store.presign_get("thing", timedelta(minutes=1))
            assert (await client.get(get)).content == content

            proxy.faults = StoreFaults(refused=1)
            assert (await client.get(get)).status_code == 503
            proxy.faults = StoreFaults(downloads_cut=1)
            with pytest.raises(httpx.TransportError):
                await client.get(get)
            proxy.faults = StoreFaults(downloads_damaged=1)
            damaged = (await client.get(get)).content
            assert len(damaged) == len(content)
            assert sum(a != b for a, b in zip(damaged, content, strict=True)) == 1

            await direct.remove("thing")
            proxy.faults = StoreFaults(uploads_cut=1)
            with pytest.raises(httpx.TransportError):
                await client.put(put, content=content)
            assert await direct.list("thing") == []
            proxy.faults = StoreFaults(refused_after=1)
            assert (await client.put(put, content=content)).status_code == 503
            assert await direct.get_bytes("thing", max_bytes=10**6) == content
            proxy.faults = StoreFaults(uploads_repeated=1)
            assert (await client.put(put, content=content)).status_code == 200
        assert proxy.done["uploads_repeated"] == proxy.done["refused_after"] == proxy.done["uploads_cut"] == 1
    finally:
        await store.close()
        await direct.close()
        await proxy.close()
