"""Files sent by threads: what is told, what is found, and that nothing goes on when nobody waits any more."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from meshkit.testing import assert_eventually
from reeltune_cli.client import ClientError
from reeltune_cli.client.put_threads import PutFailed, PutThreads

CHUNK_BYTES = 512 * 1024


class Store:
    """An HTTP server that keeps what is PUT; as a proxy it answers for all hosts."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, bytes]] = []
        self.proxy_tokens: list[str | None] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # broken off
                    self.close_connection = True
                    return
                store.puts.append((self.path, body))
                store.proxy_tokens.append(self.headers["Proxy-Authorization"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"


@pytest.fixture
def store() -> Iterator[Store]:
    found = Store()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def opened(*, uses_proxies: bool = False) -> PutThreads:
    return PutThreads(4, ssl.create_default_context(), uses_proxies=uses_proxies)


async def test_stretches_of_files_arrive_and_are_told_chunk_by_chunk(store: Store, tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK_BYTES)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "empty").touch()
    told: list[int] = []
    me = threading.get_ident()

    def tell(count: int) -> None:
        assert threading.get_ident() == me
        told.append(count)

    async with opened() as puts:
        url = f"http://{store.address}"
        assert await puts.put(f"{url}/1", {}, tmp_path / "a", 7, 2 * CHUNK_BYTES, tell) == 200
        assert told == [CHUNK_BYTES, CHUNK_BYTES]
        assert await puts.put(f"{url}/2?x=%2Fa~", {}, tmp_path / "empty", 0, 0, tell) == 200
        stretches = [(n * 300_000, 300_000) for n in range(5)]
        await asyncio.gather(*(puts.put(f"{url}/{at}", {}, tmp_path / "a", at, size, tell) for at, size in stretches))
    assert store.puts[:2] == [("/1", content[7 : 7 + 2 * CHUNK_BYTES]), ("/2?x=%2Fa~", b"")]
    assert sorted(store.puts[2:]) == sorted((f"/{at}", content[at : at + size]) for at, size in stretches)
    assert sum(told) == 2 * CHUNK_BYTES + 5 * 300_000


async def test_a_file_that_cannot_be_read_is_no_failure_of_the_connection(store: Store, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"0" * 10)
    async with opened() as puts:
        with pytest.raises(FileNotFoundError):
            await puts.put(f"http://{store.address}/a", {}, tmp_path / "gone", 0, 10, lambda _: None)
        with pytest.raises(ClientError) as caught:
            await puts.put(f"http://{store.address}/a", {}, tmp_path / "short", 5, 10, lambda _: None)
    assert caught.value.reason == "FILE_CHANGED"
    assert store.puts == []


async def test_nobody_there_is_told_without_the_address(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    async with opened() as puts:
        with pytest.raises(PutFailed) as caught:
            await puts.put(f"http://127.0.0.1:{port}/a?signature=secret", {}, tmp_path / "a", 0, 1, lambda _: None)
    assert "refused" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("size", [10, 64 * CHUNK_BYTES])
async def test_what_is_under_way_at_the_end_is_broken_off(tmp_path: Path, size: int) -> None:
    """Waiting for a server that does not read, or does not answer, would keep the process from ending."""
    (tmp_path / "a").write_bytes(bytes(size))
    before = {thread.ident for thread in threading.enumerate()}
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        silent.setblocking(False)
        async with opened() as puts:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
            put = asyncio.create_task(puts.put(url, {}, tmp_path / "a", 0, size, lambda _: None))
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_recv(connection, 3)
            put.cancel()
        with closing(connection):

            async def have_ended() -> bool:
                left = [t for t in threading.enumerate() if t.ident not in before and t.name.startswith("put")]
                return not left

            await assert_eventually(have_ended, timeout=20)


async def test_proxies_of_the_environment_are_used_where_they_are_meant(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"0")
    proxy = Store()
    monkeypatch.setenv("http_proxy", f"http://ada:a%40b@{proxy.address}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with opened(uses_proxies=True) as puts:
        await puts.put("http://store.example/far", {}, tmp_path / "a", 0, 1, lambda _: None)
        await puts.put(f"http://{store.address}/near", {}, tmp_path / "a", 0, 1, lambda _: None)
    monkeypatch.delenv("no_proxy")
    async with opened() as puts:
        await puts.put(f"http://{store.address}/own", {}, tmp_path / "a", 0, 1, lambda _: None)
    proxy.server.shutdown()
    proxy.server.server_close()
    assert [path for path, _ in proxy.puts] == ["http://store.example/far"]
    assert proxy.proxy_tokens == [f"Basic {b64encode(b'ada:a@b').decode()}"]
    assert [path for path, _ in store.puts] == ["/near", "/own"]
