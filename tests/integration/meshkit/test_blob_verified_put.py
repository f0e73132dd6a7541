"""Whether a store verifies what is PUT into it is tried, not believed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from meshkit.blob import BlobStore
from meshkit.blob import store as store_module

CHECKS = ("signature", "digest", "presence")


@contextmanager
def careless_store(*checks: str) -> Iterator[str]:
    """Serves a store that heeds only some of what it is told; `signature` stands for all that a signature covers."""
    objects: dict[str, bytes] = {}
    told: dict[str, str | None] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            names = ("Content-Length", "Content-Encoding", "X-Amz-Checksum-Sha256", "If-None-Match")
            sent = {name: self.headers[name] for name in names}
            told.update({} if told else sent)
            if "signature" in checks and sent != told:
                self._answer(403)
            elif "digest" in checks and b64encode(hashlib.sha256(body).digest()).decode() != told[names[2]]:
                self._answer(400)
            elif "presence" in checks and self.path in objects:
                self._answer(412)
            else:
                objects[self.path] = body
                self._answer(200)

        def do_DELETE(self) -> None:
            self._answer(204)

        def do_GET(self) -> None:
            listing = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><IsTruncated>false</IsTruncated></ListBucketResult>'
            self._answer(200, listing)

        def _answer(self, code: int, body: bytes = b"") -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_our_store_verifies_and_the_trial_leaves_nothing(blob_store: BlobStore) -> None:
    assert await asyncio.gather(*(blob_store.find_leniency() for _ in range(4))) == [None] * 4
    assert await blob_store.list() == []


async def test_what_a_killed_trial_left_goes_with_the_next(
    blob_store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blob_store.put_bytes("trials/try_left", b"left")
    await blob_store.find_leniency()
    assert [item.key for item in await blob_store.list()] == ["trials/try_left"]
    monkeypatch.setattr(store_module, "_LONGEST_TRIAL", timedelta(seconds=-60))
    await blob_store.find_leniency()
    assert await blob_store.list() == []


@pytest.mark.parametrize(
    ("checks", "leniency"),
    [
        ((), "takes bytes of another SHA-256"),
        (("signature", "presence"), "takes bytes of another SHA-256"),
        (("digest", "presence"), "takes a PUT with another value of a signed header"),
        (("signature", "digest"), "to a PUT with If-None-Match on an object that is there"),
        (CHECKS, None),
    ],
)
async def test_a_careless_store_is_found_out(checks: tuple[str, ...], leniency: str | None) -> None:
    with careless_store(*checks) as endpoint:
        blobs = BlobStore(endpoint, "key", "secret of the tests", "bucket")
        found = await blobs.find_leniency()
        await blobs.close()
    assert (found is None) if leniency is None else (found is not None and leniency in found)


async def test_only_one_of_many_writes_of_the_same_bytes_wins(blob_store: BlobStore) -> None:
    data = os.urandom(200_000)
    put = blob_store.presign_verified_put(
        "once", timedelta(minutes=5), length=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answers = await asyncio.gather(*(http.put(put.url, content=data, headers=dict(put.headers)) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 11
    assert await blob_store.get_bytes("once") == data
