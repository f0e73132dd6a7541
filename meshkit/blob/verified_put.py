"""Presigned PUTs whose bytes the store itself verifies, and whether a store does so.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html and
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html. Not every store that takes these headers
heeds them, so that one is tried before anything rests on it.
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import urllib3

from meshkit.blob.presign import PresignKey, presign

_TRIAL_TTL = timedelta(minutes=1)
_WRITTEN, _EXISTS = 200, 412
_REFUSED = frozenset({400, 403})
_ANSWERS = "answers {} to a PUT with a signed SHA-256 and If-None-Match"
# 501 is missing here: a store that does not know these headers says so for good.
_RETRIES = urllib3.Retry(
    total=3,
    backoff_factor=0.2,
    backoff_jitter=0.3,
    status_forcelist=[408, 429, 500, 502, 503, 504],
    allowed_methods=None,
    respect_retry_after_header=False,
    redirect=False,
)


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


def find_leniency(http: urllib3.PoolManager, key: PresignKey, path: str, other_path: str) -> str | None:
    """Returns what a store lets pass that `presign_verified_put` rests on its refusing, or None.

    May leave objects at both paths, where there must be none. Only 400 and 403 are taken for a refusal: a store that is
    overloaded has refused nothing, and is asked again.

    Raises:
        urllib3.exceptions.HTTPError: it does not answer, or says after several tries that it cannot now.
    """
    right, other = b"the announced bytes", b"the unexpected ones"
    put, other_put = (
        presign_verified_put(key, at, _TRIAL_TTL, length=len(body), sha256=hashlib.sha256(body).hexdigest())
        for at, body in ((path, right), (other_path, other))
    )

    def status(to: VerifiedPut, body: bytes, change: Mapping[str, str | None]) -> int:
        headers = {name: value for name, value in {**to.headers, **change}.items() if value is not None}
        return http.request("PUT", to.url, body=body, headers=headers, retries=_RETRIES).status

    if (answer := status(other_put, other, {})) != _WRITTEN:
        return _ANSWERS.format(answer)
    for body, change, wrong in _forbidden(right, other, other_path):
        if (answer := status(put, body, change)) not in _REFUSED:
            return wrong if answer < 300 else f"answers {answer}, not 400 or 403, where it should refuse: it {wrong}"
    if (answer := status(put, right, {})) != _WRITTEN:
        return _ANSWERS.format(answer)
    if (answer := status(put, right, {})) != _EXISTS:
        return f"answers {answer}, not {_EXISTS}, to a PUT with If-None-Match on an object that is there"
    return None


def _forbidden(right: bytes, other: bytes, other_path: str) -> tuple[tuple[bytes, Mapping[str, str | None], str], ...]:
    """Returns what must not get by the signature of a PUT of `right`: a body, other headers, and what is wrong."""
    other_value = "takes a PUT with another value of a signed header"
    unsigned = "takes a PUT with an x-amz header that is not signed"
    checksum = {"x-amz-sdk-checksum-algorithm": "CRC32", "x-amz-checksum-crc32": _crc32(other)}
    return (
        (other, {}, "takes bytes of another SHA-256 than the signed one"),
        (other, {"x-amz-checksum-sha256": None}, "takes a PUT without a signed header"),
        (other, {"x-amz-checksum-sha256": b64encode(hashlib.sha256(other).digest()).decode()}, other_value),
        (right, {"content-encoding": "gzip"}, other_value),
        (right + b"!", {}, "takes a PUT of another length than the signed one"),
        # Each would have it store something else than the body, check something else, or show it to everyone.
        (right, {"x-amz-copy-source": other_path}, unsigned),
        (other, checksum, unsigned),
        (right, {"x-amz-acl": "public-read"}, unsigned),
    )


def _crc32(data: bytes) -> str:
    return b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
