"""Where the public keys come from that tokens are verified with."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import jwt
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

JwksFetch = Callable[[], Awaitable[Mapping[str, Any]]]
"""Fetches a JSON Web Key Set, already parsed: `{"keys": [...]}`."""


class KeysUnavailable(Exception):
    """No key of an issuer is known yet and none can be fetched: nothing can be said of its tokens, good or bad."""


class KeySource(Protocol):
    """Finds the public key that a token's `kid` names. Raises KeysUnavailable."""

    async def find(self, kid: str) -> EllipticCurvePublicKey | None: ...


class StaticKeys:
    """Public keys known from the start, by `kid`, as PEM."""

    def __init__(self, pem_by_kid: Mapping[str, bytes]) -> None:
        self._keys = {kid: _p256_from_pem(pem) for kid, pem in pem_by_kid.items()}

    async def find(self, kid: str) -> EllipticCurvePublicKey | None:
        return self._keys.get(kid)


class JwksKeys:
    """Public keys of another service, fetched when first needed and again when they age or an unknown `kid` turns up.

    A fetch that fails keeps the keys that are there: an auth service that is down must not sign everybody out.
    """

    def __init__(self, fetch: JwksFetch, *, max_age_seconds: float = 300, min_interval_seconds: float = 5) -> None:
        self._fetch = fetch
        self._max_age = max_age_seconds
        self._min_interval = min_interval_seconds
        self._keys: dict[str, EllipticCurvePublicKey] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> EllipticCurvePublicKey | None:
        if kid in self._keys and time.monotonic() - self._fetched_at < self._max_age:
            return self._keys[kid]
        # Random kids from outside must not become a flood of fetches: one try per interval, however it ends.
        since = time.monotonic() - max(self._tried_at, self._fetched_at)
        if self._refreshing is None and since >= self._interval_for(kid):
            # Of no caller: neither its cancellation nor its deadline may end what all who wait for keys depend on.
            self._refreshing = asyncio.create_task(self._refresh(), name="jwks", context=contextvars.Context())
            self._refreshing.add_done_callback(self._on_refreshed)
        if self._refreshing is not None:
            await asyncio.shield(self._refreshing)
        if not self._keys:
            raise KeysUnavailable("no key set has been fetched yet")
        return self._keys.get(kid)

    def _interval_for(self, kid: str) -> float:
        is_first = not self._keys
        return (
            min(self._min_interval, 0.5) if is_first else self._min_interval if kid not in self._keys else self._max_age
        )

    def _on_refreshed(self, _: asyncio.Task[None]) -> None:
        self._refreshing = None

    async def _refresh(self) -> None:
        self._tried_at = time.monotonic()
        try:
            fetched = await self._fetch()
            keys = _keys_from_jwks(fetched)
        except Exception as error:  # whatever the transport raises, the keys that are there stay good
            structlog.get_logger().warning("jwks.fetch_failed", error=repr(error), kept_keys=len(self._keys))
            return
        if keys:
            self._keys = keys
            self._fetched_at = time.monotonic()


def _keys_from_jwks(jwks: Mapping[str, Any]) -> dict[str, EllipticCurvePublicKey]:
    keys: dict[str, EllipticCurvePublicKey] = {}
    for jwk in jwks.get("keys", ()):
        if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256" or "d" in jwk or not jwk.get("kid"):
            continue
        key = jwt.PyJWK(dict(jwk), algorithm="ES256").key
        keys[str(jwk["kid"])] = key
    return keys


def _p256_from_pem(pem: bytes) -> EllipticCurvePublicKey:
    key = serialization.load_pem_public_key(pem)
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("the public key is not an EC key on P-256, which ES256 needs")
    return key
