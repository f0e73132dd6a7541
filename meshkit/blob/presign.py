"""Presigned S3 URLs: AWS Signature Version 4 in the query string.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html. Written here because the `minio` client
signs the host only, and an upload whose length is not signed is an upload of any length.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

REGION = "us-east-1"
MAX_TTL = timedelta(days=7)
_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class PresignKey:
    """An access key and the public address that clients use."""

    access_key: str
    secret_key: str = field(repr=False)
    public_url: str
    """E.g. `https://127.0.0.1:8443/s3`. The proxy there strips the path prefix and keeps Host, so the host is signed
    and the prefix is not."""
    region: str = REGION


def presign(
    key: PresignKey,
    method: str,
    path: str,
    ttl: timedelta,
    *,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> str:
    """Returns a URL that permits `method` on `/bucket/key` until `ttl` is over; `headers` must be sent exactly so.

    Raises:
        ValueError: `ttl` is below one second or above seven days.
    """
    if not timedelta(seconds=1) <= ttl <= MAX_TTL:
        raise ValueError(f"a presigned URL lives between 1 s and 7 days, not {ttl}")
    base = urlsplit(key.public_url)
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{key.region}/s3/aws4_request"
    signed = {"host": base.netloc, **{name.lower(): value.strip() for name, value in (headers or {}).items()}}
    parameters = {
        **(query or {}),
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{key.access_key}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(int(ttl.total_seconds())),
        "X-Amz-SignedHeaders": ";".join(sorted(signed)),
    }
    encoded_path = quote(path, safe="/-_.~")
    encoded_query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(parameters.items()))
    canonical = "\n".join(
        [
            method,
            encoded_path,
            encoded_query,
            *(f"{name}:{value}" for name, value in sorted(signed.items())),
            "",
            ";".join(sorted(signed)),
            "UNSIGNED-PAYLOAD",
        ]
    )
    signature = _signature(key.secret_key, moment, scope, canonical)
    return f"{base.scheme}://{base.netloc}{base.path.rstrip('/')}{encoded_path}?{encoded_query}&X-Amz-Signature={signature}"


def _signature(secret_key: str, moment: str, scope: str, canonical: str) -> str:
    signing_key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    to_sign = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.digest(signing_key, to_sign.encode(), "sha256").hex()


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")
