"""Presigned PUTs whose bytes the store itself verifies, and whether a store does so.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html and
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html. Not every store that takes these headers
heeds them, so that one is tried before anything rests on it.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import urllib3

from meshkit.blob.presign import PresignKey, presign

_TRIAL_TTL = timedelta(minutes=1)
_WRITTEN, _EXISTS = 200, 412


@dataclass(frozen=True, slots=True)
class VerifiedPut:
    """Where to PUT bytes of one length and digest, and nothing else."""

    url: str = field(repr=False)
    headers: Mapping[str, str]
    """Signed: to be sent exactly so, beside `Content-Length`."""


def presign_verified_put(key: PresignKey, path: str, ttl: timedelta, *, length: int, sha256: str) -> VerifiedPut:
    """Returns a PUT on `/bucket/key` that succeeds for these bytes only, and only if there is no such object yet.

    Args:
        key: Who signs.
        path: `/bucket/key`.
        ttl: How long it is good.
        length: Of the bytes.
        sha256: Of the bytes, 64 hexadecimal digits.
    """
    headers = {
        "content-type": "application/octet-stream",
        # Else a client could have the bytes unpacked for all who read them.
        "content-encoding": "identity",
        "if-none-match": "*",
        "x-amz-checksum-sha256": b64encode(bytes.fromhex(sha256)).decode(),
    }
    url = presign(key, "PUT", path, ttl, headers={**headers, "content-length": str(length)})
    return VerifiedPut(url, headers)


def find_leniency(http: urllib3.PoolManager, key: PresignKey, path: str) -> str | None:
    """Returns what a store lets pass that `presign_verified_put` rests on its refusing, or None. May leave an object.

    Raises:
        urllib3.exceptions.HTTPError: it does not answer.
    """
    right, other = b"the announced bytes", b"the unexpected ones"
    put = presign_verified_put(key, path, _TRIAL_TTL, length=len(right), sha256=hashlib.sha256(right).hexdigest())

    def status(body: bytes, without: str = "", instead: str = "") -> int:
        headers = {name: value for name, value in put.headers.items() if name != without}
        if instead:
            headers[without] = instead
        return http.request("PUT", put.url, body=body, headers=headers, retries=False).status

    other_digest = b64encode(hashlib.sha256(other).digest()).decode()
    for body, without, instead, wrong in (
        (other, "", "", "takes bytes of another SHA-256 than the signed one"),
        (other, "x-amz-checksum-sha256", "", "takes a PUT without a signed header"),
        (other, "x-amz-checksum-sha256", other_digest, "takes a PUT with another value of a signed header"),
        (right, "content-encoding", "gzip", "takes a PUT with another value of a signed header"),
        (right + b"!", "", "", "takes a PUT of another length than the signed one"),
    ):
        if status(body, without, instead) < 300:
            return wrong
    if (answer := status(right)) != _WRITTEN:
        return f"answers {answer} to a PUT with a signed SHA-256 and If-None-Match"
    if (answer := status(right)) != _EXISTS:
        return f"answers {answer}, not {_EXISTS}, to a PUT with If-None-Match on an object that is there"
    return None
