"""GET requests to addresses that users name, so that they reach public servers only and cost a bounded amount.

The HTTP is httpcore's: it follows no redirect, keeps no cookie, unpacks nothing and asks no proxy of the environment.
What it dials is decided here: a name is looked up once, all its addresses are checked, and one of these very addresses
is connected to, while SNI, certificate check and Host header keep the name.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import certifi
import httpcore

from catalog_svc.domain.errors import SourceRefused, SourceUnavailable
from catalog_svc.domain.public_address import (
    FetchUrl,
    IpAddress,
    check_addresses,
    check_redirect,
    check_url,
    literal_address,
)

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LATER = frozenset({408, 425, 429})
_HIDDEN = frozenset({401, 403})
_ABSENT = frozenset({404, 410})
_CHANGED = 412
_SLOW_GRACE_SECONDS = 30.0
_USER_AGENT = "reeltune-import"


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one request may cost."""

    max_bytes: int
    total_seconds: float = 3600.0
    connect_seconds: float = 10.0
    head_seconds: float = 30.0
    """From the request to the end of the response's headers."""
    idle_seconds: float = 30.0
    """Longest silence within a body."""
    min_bytes_per_second: float = 1024.0
    """Mean rate that a body must keep after its first 30 s."""


class Network(Protocol):
    """Looks names up and dials addresses: the system's, or one that a test plays."""

    async def resolve(self, host: str, port: int) -> list[IpAddress]:
        """Returns all addresses of a name; raises OSError."""
        ...

    async def dial(self, address: IpAddress, port: int, timeout: float | None) -> httpcore.AsyncNetworkStream:
        """Connects to exactly this address; raises httpcore's exceptions."""
        ...


class SystemNetwork:
    """The machine's own."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()

    async def resolve(self, host: str, port: int) -> list[IpAddress]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(ipaddress.ip_address(row[4][0]) for row in found))

    async def dial(self, address: IpAddress, port: int, timeout: float | None) -> httpcore.AsyncNetworkStream:
        return await self._backend.connect_tcp(str(address), port, timeout=timeout)


@dataclass(slots=True)
class Response:
    """The answer, its body not yet read."""

    url: FetchUrl
    status: int
    headers: Mapping[str, str]
    """With lower-case names."""
    _body: AsyncIterator[bytes] = field(repr=False)

    @property
    def length(self) -> int | None:
        """The declared length of the body, in bytes."""
        return _length(self.headers)

    @property
    def etag(self) -> str:
        return self.headers.get("etag", "").removeprefix("W/").strip('"')

    def body(self) -> AsyncIterator[bytes]:
        """Yields the body within the limits.

        Raises:
            SourceRefused: it is too long, or comes too slowly.
            SourceUnavailable: it was cut.
        """
        return self._body

    async def read(self) -> bytes:
        """Returns the whole body; raises as `body` does."""
        return b"".join([chunk async for chunk in self._body])


class GuardedHttp:
    """Fetches; connections are kept for further requests to the same origin until it is closed."""

    def __init__(
        self,
        limits: FetchLimits,
        *,
        ca_file: Path | None = None,
        tolerated: Iterable[str] = (),
        network: Network | None = None,
    ) -> None:
        """Connects to nothing yet.

        Args:
            limits: What a request may cost.
            ca_file: PEM of further authorities to trust.
            tolerated: `host:port` of servers that tests run: reached wherever they are, over http too.
            network: Looks up and dials; None: the system does.
        """
        self._limits = limits
        self._tolerated = frozenset(tolerated)
        trust = ssl.create_default_context(cafile=certifi.where())
        if ca_file is not None:
            trust.load_verify_locations(cafile=ca_file)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=trust,
            max_connections=64,
            keepalive_expiry=30.0,
            network_backend=_GuardedBackend(network or SystemNetwork(), self._tolerated),
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()

    def check(self, text: str) -> FetchUrl:
        """Returns a URL taken apart; raises SourceRefused for one that is never fetched."""
        return check_url(text, self._tolerated)

    @contextlib.asynccontextmanager
    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        max_redirects: int = MAX_REDIRECTS,
        max_bytes: int | None = None,
    ) -> AsyncGenerator[Response, None]:
        """Gives the answer 200 to a GET, after at most three redirects, each checked like the first URL.

        Raises:
            SourceRefused: the URL, an address or the answer is not one to take; another try ends the same.
            SourceUnavailable: the server does not give it at the moment.
        """
        target = self.check(url)
        most = self._limits.max_bytes if max_bytes is None else max_bytes
        limit = asyncio.timeout(self._limits.total_seconds)
        try:
            async with limit:
                for _ in range(max_redirects + 1):
                    async with self._exchange(method, target, headers or {}, most) as response:
                        if response.status not in _REDIRECTS:
                            _check_status(response)
                            _check_head(response, most)
                            yield response
                            return
                        target = check_redirect(target, response.headers.get("location", ""), self._tolerated)
                what = f"the server redirects more than {max_redirects} times"
                raise SourceRefused("TOO_MANY_REDIRECTS", what, "use the URL of the file itself")
        except TimeoutError as error:
            if limit.expired():
                raise _too_slow(target, self._limits.total_seconds) from error
            raise

    @contextlib.asynccontextmanager
    async def _exchange(
        self, method: str, url: FetchUrl, headers: Mapping[str, str], most: int
    ) -> AsyncGenerator[Response, None]:
        limits = self._limits
        request = httpcore.Request(
            method,
            # In parts, so that nothing parses the text a second time and differently.
            httpcore.URL(
                scheme=url.scheme.encode(), host=url.bracketed_host.encode(), port=url.port, target=url.target.encode()
            ),
            headers=[
                ("Host", url.host_header),
                ("User-Agent", _USER_AGENT),
                ("Accept", "*/*"),
                # Nothing is unpacked here, so nothing can unpack to more than was counted.
                ("Accept-Encoding", "identity"),
                *headers.items(),
            ],
            extensions={
                "timeout": {
                    "connect": limits.connect_seconds,
                    "read": limits.idle_seconds,
                    "write": limits.idle_seconds,
                    "pool": limits.head_seconds,
                },
                "sni_hostname": url.host,
            },
        )
        with _translated(url):
            head = asyncio.timeout(limits.head_seconds)
            try:
                async with head:
                    raw = await self._pool.handle_async_request(request)
            except TimeoutError as error:
                if not head.expired():
                    raise
                what = f"{url.shown} sends no answer within {limits.head_seconds:g} s"
                raise SourceUnavailable("SOURCE_UNAVAILABLE", what) from error
        try:
            names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw.headers}
            yield Response(url, raw.status, names, self._bounded(url, raw, most, is_head=method == "HEAD"))
        finally:
            await raw.aclose()

    async def _bounded(
        self, url: FetchUrl, raw: httpcore.Response, most: int, *, is_head: bool
    ) -> AsyncGenerator[bytes, None]:
        count, began = 0, time.monotonic()
        stream = raw.aiter_stream()
        with _translated(url):
            async for chunk in stream:
                count += len(chunk)
                if count > most:
                    raise _too_large(url, most)
                elapsed = time.monotonic() - began
                if elapsed > _SLOW_GRACE_SECONDS and count < elapsed * self._limits.min_bytes_per_second:
                    raise _too_slow(url, elapsed)
                yield chunk
        declared = _length({name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw.headers})
        if declared is not None and count != declared and not is_head:
            what = f"{url.shown} sent {count} bytes where it announced {declared}"
            raise SourceUnavailable("SOURCE_CUT", what)


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Dials for the connection pool: none but checked addresses."""

    def __init__(self, network: Network, tolerated: frozenset[str]) -> None:
        self._network = network
        self._tolerated = tolerated

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        host = host.strip("[]")
        literal = literal_address(host)
        addresses = [literal] if literal is not None else await self._resolved(host, port, timeout)
        origin = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if origin not in self._tolerated:
            check_addresses(host, addresses)
        return await self._first(addresses, port, timeout)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.UnsupportedProtocol("sources are reached over TCP only")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _resolved(self, host: str, port: int, timeout: float | None) -> list[IpAddress]:
        try:
            async with asyncio.timeout(timeout):
                return await self._network.resolve(host, port)
        except (OSError, UnicodeError) as error:  # TimeoutError included
            raise SourceUnavailable("HOST_NOT_FOUND", f"the host {host[:100]} cannot be looked up") from error

    async def _first(
        self, addresses: Sequence[IpAddress], port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                return await self._network.dial(address, port, timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


@contextlib.contextmanager
def _translated(url: FetchUrl) -> Any:
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        if isinstance(error.__cause__ or error.__context__, ssl.SSLCertVerificationError):
            what = f"the certificate of {url.origin} is not valid for it"
            raise SourceRefused("TLS_INVALID", what, "use a host with a valid certificate") from error
        kind = "SOURCE_CUT" if isinstance(error, httpcore.RemoteProtocolError) else "SOURCE_UNAVAILABLE"
        raise SourceUnavailable(kind, f"{url.shown} cannot be read: {type(error).__name__}") from error


def _check_status(response: Response) -> None:
    status, shown = response.status, response.url.shown
    if 200 <= status < 300 and status != 206:
        return
    if status in _HIDDEN:
        remedy = "give a URL or credentials that may read it"
        raise SourceRefused("SOURCE_FORBIDDEN", f"{shown} answers {status}: reading it is not allowed", remedy)
    if status in _ABSENT:
        raise SourceRefused("SOURCE_NOT_FOUND", f"{shown} answers {status}: it is not there", "check the address")
    if status == _CHANGED:
        remedy = "put the former file back, or import it again"
        raise SourceRefused("SOURCE_CHANGED", f"{shown} is another than when it was listed", remedy)
    if status >= 500 or status in _LATER:
        raise SourceUnavailable("SOURCE_UNAVAILABLE", f"{shown} answers {status}")
    raise SourceRefused("SOURCE_ANSWER_INVALID", f"{shown} answers {status}", "use the URL of the file itself")


def _check_head(response: Response, most: int) -> None:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        what = f"{response.url.shown} sends the file packed ({encoding[:20]}) although asked not to"
        raise SourceRefused("ENCODING_REFUSED", what, "serve the file as it is")
    if response.length is not None and response.length > most:
        raise _too_large(response.url, most)


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _too_large(url: FetchUrl, most: int) -> SourceRefused:
    what = f"{url.shown} has more than {most} bytes, the most that is taken"
    return SourceRefused("FILE_TOO_LARGE", what, "split it, or leave it out")


def _too_slow(url: FetchUrl, seconds: float) -> SourceRefused:
    what = f"{url.shown} has not come whole after {seconds:g} s"
    return SourceRefused("SOURCE_TOO_SLOW", what, "use a faster server, or upload the file")
