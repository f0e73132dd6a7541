"""Files sent by threads: what is told, what is found, and that nothing goes on when nobody waits any more."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from meshkit.testing import assert_eventually
from reeltune_cli.client import ClientError, put_threads
from reeltune_cli.client.put_threads import PutFailed, PutThreads
from reeltune_cli.stack.certificates import EdgeCertificates, ensure_certificates

CHUNK_BYTES = 512 * 1024


class Store:
    """An HTTP server that keeps what is PUT; as a proxy it answers for all hosts, or makes tunnels."""

    def __init__(self, certificates: EdgeCertificates | None = None) -> None:
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

            def do_CONNECT(self) -> None:
                host, _, port = self.path.rpartition(":")
                self.close_connection = True
                with socket.create_connection((host, int(port))) as other:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=_carry, args=(other, self.connection), daemon=True)
                    back.start()
                    _carry(self.connection, other)
                    back.join()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.certificate, certificates.key)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Copies what comes until it ends, and tells the end."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        socket.socket.shutdown(target, socket.SHUT_RDWR)


@contextmanager
def serving(certificates: EdgeCertificates | None = None) -> Iterator[Store]:
    found = Store(certificates)
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()


@pytest.fixture
def store() -> Iterator[Store]:
    with serving() as found:
        yield found


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


class Ended:
    """Whether all threads that send have ended that were not there before."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    async def __call__(self) -> bool:
        return not [t for t in threading.enumerate() if t not in self._before and t.name.startswith("put")]


@pytest.mark.parametrize("size", [10, 64 * CHUNK_BYTES])
async def test_what_is_under_way_at_the_end_is_broken_off(tmp_path: Path, size: int) -> None:
    """Waiting for a server that does not read, or does not answer, would keep the process from ending."""
    (tmp_path / "a").write_bytes(bytes(size))
    have_ended = Ended()
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        async with opened() as puts:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
            connection = await heard(silent, puts, url, tmp_path / "a", size)
        with closing(connection):
            await assert_eventually(have_ended, timeout=20)


async def test_a_handshake_under_way_at_the_end_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put_threads, "_CONNECT_SECONDS", 600)
    (tmp_path / "a").write_bytes(b"0")
    have_ended = Ended()
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        async with opened() as puts:
            url = f"https://127.0.0.1:{silent.getsockname()[1]}/a"
            connection = await heard(silent, puts, url, tmp_path / "a", 1)
        with closing(connection):
            await assert_eventually(have_ended, timeout=20)


async def heard(silent: socket.socket, puts: PutThreads, url: str, file: Path, size: int) -> socket.socket:
    """Starts a PUT that is not waited for, and returns its connection once something has come by it."""
    silent.setblocking(False)
    put = asyncio.create_task(puts.put(url, {}, file, 0, size, lambda _: None))
    connection, _ = await asyncio.get_running_loop().sock_accept(silent)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_recv(connection, 3)
    put.cancel()
    return connection


@contextmanager
def unreachable() -> Iterator[socket.socket]:
    """A server whose queue is full: who connects waits until something is accepted."""
    with (
        closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as full,
        socket.create_connection(full.getsockname()),
    ):
        yield full


async def connecting(full: socket.socket, process: psutil.Process) -> None:
    """Waits until a process connects to a server in vain."""

    async def is_connecting() -> bool:
        there = full.getsockname()
        return any(c.status == psutil.CONN_SYN_SENT and c.raddr == there for c in process.net_connections("tcp"))

    await assert_eventually(is_connecting, timeout=60)


async def test_a_connection_that_comes_after_the_end_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_threads, "_CONNECT_SECONDS", 600)
    (tmp_path / "empty").touch()
    have_ended = Ended()
    with unreachable() as full:
        full.setblocking(False)
        async with opened() as puts:
            url = f"http://127.0.0.1:{full.getsockname()[1]}/a"
            put = asyncio.create_task(puts.put(url, {}, tmp_path / "empty", 0, 0, lambda _: None))
            await connecting(full, psutil.Process())
            put.cancel()
        for _ in ("what filled the queue", "the late one"):
            connection, _ = await asyncio.get_running_loop().sock_accept(full)
        with closing(connection):
            connection.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(connection, 10) == b""
        await assert_eventually(have_ended, timeout=20)


_PUT = """
import asyncio, signal, ssl, sys
from pathlib import Path
from reeltune_cli.client import put_threads

async def main(url, file):
    put_threads._CONNECT_SECONDS = 600
    async with put_threads.PutThreads(4, ssl.create_default_context(), uses_proxies=False) as puts:
        await puts.put(url, {}, Path(file), 0, 0, lambda _: None)

signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background has it ignored
asyncio.run(main(*sys.argv[1:]))
"""


async def test_ctrl_c_ends_a_process_that_connects(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with unreachable() as full:
        url = f"http://127.0.0.1:{full.getsockname()[1]}/a"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PUT, url, str(tmp_path / "empty"), stderr=asyncio.subprocess.PIPE
        )
        try:
            await connecting(full, psutil.Process(process.pid))
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(60):
                _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert errors.decode().rstrip().endswith("KeyboardInterrupt")


async def test_proxies_of_the_environment_are_used_where_they_are_meant(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"0")
    with serving() as proxy:
        monkeypatch.setenv("http_proxy", f"http://ada:a%40b@{proxy.address}")
        monkeypatch.setenv("no_proxy", store.address)
        async with opened(uses_proxies=True) as puts:
            await puts.put("http://store.example/far", {}, tmp_path / "a", 0, 1, lambda _: None)
            await puts.put(f"http://{store.address}/near", {}, tmp_path / "a", 0, 1, lambda _: None)
            monkeypatch.setenv("http_proxy", proxy.address)
            await puts.put("http://127.0.0.1:1/no-scheme", {}, tmp_path / "a", 0, 1, lambda _: None)
            monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
            with pytest.raises(ClientError) as caught:
                await puts.put("http://store.example/far", {}, tmp_path / "a", 0, 1, lambda _: None)
        monkeypatch.delenv("no_proxy")
        async with opened() as puts:
            await puts.put(f"http://{store.address}/own", {}, tmp_path / "a", 0, 1, lambda _: None)
    assert [path for path, _ in proxy.puts] == ["http://store.example/far", "http://127.0.0.1:1/no-scheme"]
    assert proxy.proxy_tokens == [f"Basic {b64encode(b'ada:a@b').decode()}", None]
    assert [path for path, _ in store.puts] == ["/near", "/own"]
    assert caught.value.reason == "PROXY_NOT_SUPPORTED"


async def test_an_encrypted_proxy_is_used_and_broken_off_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"0")
    certificates = ensure_certificates(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    have_ended = Ended()
    with (
        serving(certificates) as target,
        serving(certificates) as proxy,
        closing(socket.create_server(("127.0.0.1", 0))) as silent,
    ):
        monkeypatch.setenv("https_proxy", f"https://{proxy.address}")
        async with opened(uses_proxies=True) as puts:
            assert await puts.put(f"https://{target.address}/a", {}, tmp_path / "a", 0, 1, lambda _: None) == 200
            url = f"https://127.0.0.1:{silent.getsockname()[1]}/a"
            connection = await heard(silent, puts, url, tmp_path / "a", 1)
        with closing(connection):
            await assert_eventually(have_ended, timeout=20)
    assert target.puts == [("/a", b"0")]
