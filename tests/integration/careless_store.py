"""A store that heeds only some of what it is told."""

from __future__ import annotations

import hashlib
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

CHECKS = ("signature", "unsigned", "digest", "presence")
_SIGNED = ("content-length", "content-encoding", "x-amz-checksum-sha256", "if-none-match")


@dataclass
class CarelessStore:
    """What it checks, how it refuses, and where it is."""

    checks: tuple[str, ...] = CHECKS
    """`signature` is all that a signature covers, `unsigned` are the x-amz headers that none covers."""
    busy: list[int] = field(default_factory=list)
    """What the next PUTs are answered with, whatever they are."""
    refusal: int = 403
    can_tidy: bool = True
    endpoint: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)

    def answer_put(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Stores an object or refuses to; returns the status."""
        if self.busy:
            return self.busy.pop(0)
        sent = {name: headers.get(name) for name in _SIGNED}
        digest = _trial_digest(path)
        told = dict(zip(_SIGNED, ("19", "identity", digest, "*"), strict=True))
        if "signature" in self.checks and sent != told:
            return self.refusal
        if "unsigned" in self.checks and any(n.startswith("x-amz-") and n not in _SIGNED for n in headers):
            return self.refusal
        if "digest" in self.checks and b64encode(hashlib.sha256(body).digest()).decode() != digest:
            return 400
        if "presence" in self.checks and path in self.objects:
            return 412
        self.objects[path] = body
        return 200


def _trial_digest(path: str) -> str:
    body = b"the unexpected ones" if path.endswith(".other") else b"the announced bytes"
    return b64encode(hashlib.sha256(body).digest()).decode()


@contextmanager
def serve(store: CarelessStore) -> Iterator[CarelessStore]:
    """Serves it on the loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            address = urlsplit(self.path)
            assert "X-Amz-Signature" in parse_qs(address.query)
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer(store.answer_put(address.path, headers, body))

        def do_DELETE(self) -> None:
            store.objects.pop(urlsplit(self.path).path, None)
            self._answer(204 if store.can_tidy else 403)

        def do_GET(self) -> None:
            listing = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><IsTruncated>false</IsTruncated></ListBucketResult>'
            self._answer(*((200, listing) if store.can_tidy else (403, b"")))

        def _answer(self, code: int, body: bytes = b"") -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    store.endpoint = f"127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
