"""What servers on the other side can do to a fetch: rebind, redirect, stall, lie, flood. Over real TLS."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from catalog_svc.clients.guarded_http import FetchLimits, GuardedHttp
from catalog_svc.domain.errors import CatalogError, SourceRefused, SourceUnavailable
from tests.integration.catalog.tls_sources import PUBLIC, PlayedInternet, played_internet

MAX_BYTES = 100_000
LIMITS = FetchLimits(max_bytes=MAX_BYTES, total_seconds=20, head_seconds=2, idle_seconds=2)
BODY = b"a clip" * 100


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def length(count: int) -> str:
    return f"content-length: {count}"


async def respond(path: str, writer: asyncio.StreamWriter) -> None:
    name, _, rest = path[1:].partition("/")
    whole = {
        "file": answer(BODY, length(len(BODY))),
        "short": answer(BODY[:100], length(len(BODY))),
        "long": answer(BODY, length(50)),
        "huge": answer(b"", length(MAX_BYTES + 1)),
        "gzip": answer(gzip.compress(bytes(10_000_000)), "content-encoding: gzip"),
        "cut": answer(b"40\r\nhalf", "transfer-encoding: chunked"),
        "absent": answer(b"", length(0), status="404 Not Found"),
        "hidden": answer(b"", length(0), status="403 Forbidden"),
        "broken": answer(b"", length(0), status="503 Service Unavailable"),
        "garbage": b"\x16\x03\x01 this is not HTTP at all\r\n\r\n",
    }
    if name in whole:
        writer.write(whole[name])
    elif name == "hop":  # /hop/3 goes through 2 and 1 to the file
        target = f"/hop/{int(rest) - 1}" if int(rest) > 1 else "https://other.example/file"
        writer.write(answer(b"", f"location: {target}", length(0), status="302 Found"))
    elif name == "to":
        writer.write(answer(b"", f"location: {rest}", length(0), status="307 Temporary Redirect"))
    elif name == "endless":
        writer.write(answer(b"", "transfer-encoding: chunked"))
        while True:
            writer.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")
            await writer.drain()
    elif name == "headers":
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-filler: " + b"x" * 1000 + b"\r\n")
            await writer.drain()
    elif name == "silent":
        await asyncio.Event().wait()
    elif name == "drip":
        writer.write(answer(b"", length(1000)))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.2)


@pytest_asyncio.fixture(loop_scope="session")
async def internet(tmp_path: Path) -> AsyncIterator[PlayedInternet]:
    async with played_internet(tmp_path, respond) as played:
        yield played


async def fetched(internet: PlayedInternet, url: str, limits: FetchLimits = LIMITS) -> bytes:
    http = GuardedHttp(limits, ca_file=internet.ca, network=internet)
    try:
        async with http.get(url) as response:
            return await response.read()
    finally:
        await http.close()


async def failure(internet: PlayedInternet, url: str, limits: FetchLimits = LIMITS) -> CatalogError:
    with pytest.raises((SourceRefused, SourceUnavailable)) as caught:
        await fetched(internet, url, limits)
    return caught.value


async def test_a_file_comes_whole_from_the_checked_address(internet: PlayedInternet) -> None:
    assert await fetched(internet, "https://files.example/file") == BODY
    assert internet.dialled == [PUBLIC]
    assert internet.names == ["files.example"]
    (head,) = internet.requests
    assert "\r\nHost: files.example\r\n" in head
    assert "\r\nAccept-Encoding: identity\r\n" in head


async def test_the_environments_proxies_are_not_asked(
    internet: PlayedInternet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await fetched(internet, "https://files.example/file") == BODY


async def test_a_name_that_changes_its_address_is_dialled_at_the_one_that_was_checked(internet: PlayedInternet) -> None:
    internet.answers["rebinding.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert await fetched(internet, "https://rebinding.example/file") == BODY
    assert internet.lookups == ["rebinding.example"]
    assert internet.dialled == [PUBLIC]
    # The next connection looks again, and is refused.
    assert isinstance(await failure(internet, "https://rebinding.example/file"), SourceRefused)
    assert internet.dialled == [PUBLIC]


async def test_a_redirect_to_a_name_that_has_become_private_is_refused(internet: PlayedInternet) -> None:
    internet.answers["rebinding.example"] = [[PUBLIC], ["169.254.169.254"]]
    found = await failure(internet, "https://rebinding.example/to/https://rebinding.example/file")
    assert isinstance(found, SourceRefused)
    assert found.reason == "ADDRESS_NOT_PUBLIC"
    assert internet.dialled == [PUBLIC]


async def test_three_redirects_are_followed_and_no_more(internet: PlayedInternet) -> None:
    assert await fetched(internet, "https://files.example/hop/3") == BODY
    found = await failure(internet, "https://files.example/hop/4")
    assert isinstance(found, SourceRefused)
    assert found.reason == "TOO_MANY_REDIRECTS"


@pytest.mark.parametrize(
    "target",
    ["http://files.example/file", "https://127.0.0.1/", "https://10.0.0.1/", "https://[::1]/", "file:///etc/passwd"],
)
async def test_no_redirect_leads_inside(internet: PlayedInternet, target: str) -> None:
    assert isinstance(await failure(internet, f"https://files.example/to/{target}"), SourceRefused)
    assert internet.dialled == [PUBLIC]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("huge", "FILE_TOO_LARGE"), ("endless", "FILE_TOO_LARGE"), ("gzip", "ENCODING_REFUSED"),
        ("absent", "SOURCE_NOT_FOUND"), ("hidden", "SOURCE_FORBIDDEN"),
    ],
)  # fmt: skip
async def test_what_another_try_would_not_mend_is_refused(internet: PlayedInternet, path: str, reason: str) -> None:
    found = await failure(internet, f"https://files.example/{path}")
    assert isinstance(found, SourceRefused)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("short", "SOURCE_CUT"), ("cut", "SOURCE_CUT"), ("broken", "SOURCE_UNAVAILABLE"), ("garbage", "SOURCE_CUT"),
        ("headers", "SOURCE_CUT"), ("silent", "SOURCE_UNAVAILABLE"),
    ],
)  # fmt: skip
async def test_what_may_pass_is_told_as_such(internet: PlayedInternet, path: str, reason: str) -> None:
    found = await failure(internet, f"https://files.example/{path}")
    assert isinstance(found, SourceUnavailable)
    assert found.reason == reason


async def test_what_comes_after_the_announced_length_is_left_alone(internet: PlayedInternet) -> None:
    assert await fetched(internet, "https://files.example/long") == BODY[:50]


async def test_a_body_that_drips_is_given_up(internet: PlayedInternet) -> None:
    limits = FetchLimits(max_bytes=MAX_BYTES, total_seconds=1, head_seconds=2, idle_seconds=2)
    found = await failure(internet, "https://files.example/drip", limits)
    assert isinstance(found, SourceRefused)
    assert found.reason == "SOURCE_TOO_SLOW"


async def test_a_certificate_of_another_host_is_refused(internet: PlayedInternet) -> None:
    found = await failure(internet, "https://elsewhere.example/file")
    assert isinstance(found, SourceRefused)
    assert found.reason == "TLS_INVALID"
    assert internet.requests == []
