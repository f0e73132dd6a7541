"""The edge serves the browser's pages beside the API, under a policy that lets nothing else run."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from reeltune_cli.stack.site import content_security_policy, load_site
from tests.rpc.edge.conftest import Edge, loopback, running_edge
from tests.rpc.edge.upstreams import Upstreams

OBJECTS = "https://objects.example:9000"
PAGE = b"<!doctype html><title>Log in</title><script>1</script>"
MISSING = b"<!doctype html><title>Not here</title>"
SCRIPT = b"'100 %'; " * 10_000
HASH = "sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s="


def write_site(folder: Path) -> Path:
    """Writes a site as `make web` does."""
    folder.mkdir()
    (folder / "0.html.gz").write_bytes(gzip.compress(PAGE))
    (folder / "3.html.gz").write_bytes(gzip.compress(MISSING))
    (folder / "1.js.gz").write_bytes(gzip.compress(SCRIPT))
    (folder / "2.woff2").write_bytes(bytes(range(256)))
    for_ever = "public, max-age=31536000, immutable"
    pages = [
        ("/app/login", "0.html.gz", "text/html; charset=utf-8", "no-cache", [HASH]),
        ("/app/404", "3.html.gz", "text/html; charset=utf-8", "no-cache", []),
        ("/app/_next/static/1.js", "1.js.gz", "text/javascript; charset=utf-8", for_ever, []),
        ("/app/_next/static/2.woff2", "2.woff2", "font/woff2", for_ever, []),
    ]
    names = ("path", "file", "content_type", "cache_control", "script_hashes")
    listed = [{**dict(zip(names, page, strict=True)), "is_compressed": page[1].endswith(".gz")} for page in pages]
    (folder / "site.json").write_text(json.dumps({"pages": listed}))
    return folder


@pytest.fixture(scope="module")
async def site_edge(tmp_path_factory: pytest.TempPathFactory, upstreams: Upstreams) -> AsyncIterator[Edge]:
    folder = tmp_path_factory.mktemp("site-edge")
    site = load_site(write_site(folder / "site"), object_origins=[OBJECTS])
    endpoints = {"auth": loopback(upstreams.auth.port)}
    async with running_edge(folder, endpoints, upstreams.keys, site=site) as run:
        yield run


async def test_a_page_comes_with_its_policy_and_is_asked_for_anew(site_edge: Edge) -> None:
    answer = await site_edge.http.get("/app/login?next=%2Fdatasets")

    assert (answer.status_code, answer.content) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-security-policy"] == content_security_policy([HASH], [OBJECTS])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_a_script_of_any_size_is_kept_for_ever(site_edge: Edge) -> None:
    answer = await site_edge.http.get("/app/_next/static/1.js")

    assert (answer.status_code, answer.content) == (200, SCRIPT)
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in answer.headers["cache-control"]


async def test_bytes_that_are_no_text_arrive_as_they_are(site_edge: Edge) -> None:
    answer = await site_edge.http.get("/app/_next/static/2.woff2")

    assert answer.content == bytes(range(256))
    assert answer.headers["content-type"] == "font/woff2"


async def test_the_root_leads_to_the_site(site_edge: Edge) -> None:
    for path in ("/", "/app/"):
        answer = await site_edge.http.get(path)

        assert (answer.status_code, httpx.URL(answer.headers["location"]).path) == (303, "/app")


async def test_a_page_that_is_not_there_is_told_by_a_page(site_edge: Edge) -> None:
    answer = await site_edge.http.get("/app/datasets/veiw?id=1")

    assert (answer.status_code, answer.content) == (404, MISSING)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == content_security_policy([], [OBJECTS])


async def test_only_what_was_built_is_there_and_only_to_be_read(site_edge: Edge) -> None:
    missing = await site_edge.http.get("/app/../../etc/passwd")
    unknown = await site_edge.http.get("/applications")
    written = await site_edge.http.post("/app/login", json={})
    assert written.json()["details"][0]["reason"] == "RPC_UNKNOWN"
    head = await site_edge.http.head("/app/login")

    assert [missing.status_code, unknown.status_code, written.status_code] == [404, 404, 404]
    assert unknown.json()["details"][0]["reason"] == "RPC_UNKNOWN"
    assert (head.status_code, head.content) == (200, b"")


async def test_the_api_is_where_it_was(site_edge: Edge) -> None:
    answer = await site_edge.http.get("/datasets")

    assert answer.status_code == 401
    assert answer.json()["details"][0]["reason"] == "TOKEN_MISSING"


async def test_without_a_site_the_root_is_nothing(edge: Edge) -> None:
    assert (await edge.http.get("/")).status_code == 404


def test_the_policy_lets_no_inline_script_or_style_and_no_other_origin_run() -> None:
    policy = dict(
        part.partition(" ")[::2] for part in content_security_policy([HASH], ["https://a.example"]).split("; ")
    )

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == f"'self' 'wasm-unsafe-eval' '{HASH}'"
    assert policy["style-src"] == "'self'"
    assert policy["connect-src"] == "'self' https://a.example"
    assert (policy["frame-ancestors"], policy["base-uri"]) == ("'none'", "'none'")
    assert not re.search(r"unsafe-(inline|eval)'", " ".join(policy.values()).replace("'wasm-unsafe-eval'", ""))


def test_where_nobody_has_built_it_there_is_no_site(tmp_path: Path) -> None:
    assert load_site(tmp_path) is None
