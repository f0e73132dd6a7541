"""JSON Web Tokens of the mesh: ES256 only, typed, with every claim required that ties a token to its use (RFC 8725)."""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshkit.auth.keys import KeySource
from meshkit.auth.principal import Caller, Principal

ALGORITHM = "ES256"
LEEWAY = timedelta(seconds=10)
"""Clock difference between two machines of the mesh that is forgiven."""
MAX_TOKEN_LENGTH = 8192
_REMEMBER_SECONDS = 15.0
_REMEMBER_TOKENS = 4096
_REQUIRED_CLAIMS = ["aud", "exp", "sub", "jti", "iss"]
# These headers let a token say where its own key is. No token of ours carries them.
_REFUSED_HEADERS = frozenset({"jku", "x5u", "jwk", "x5c", "crit"})
_COMPACT_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class TokenRejected(Exception):
    """The credential proves nothing. The text is for the log and never holds any part of the token."""


def generate_private_key() -> bytes:
    """Returns a new P-256 private key as PEM (PKCS #8, not encrypted)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(private_key_pem: bytes) -> bytes:
    """Returns the public half of a private key, as PEM."""
    return (
        _load_private_key(private_key_pem)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def public_jwk(private_key_pem: bytes, kid: str) -> dict[str, str]:
    """Returns the public half of a private key as a JSON Web Key with `kid`, `use` and `alg`, ready for a JWKS."""
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(_load_private_key(private_key_pem).public_key(), as_dict=True)
    return {**{name: str(value) for name, value in jwk.items()}, "kid": kid, "use": "sig", "alg": ALGORITHM}


class TokenSigner:
    """Signs tokens of one type for one audience."""

    def __init__(self, private_key_pem: bytes, *, kid: str, issuer: str, audience: str, typ: str) -> None:
        self._key = _load_private_key(private_key_pem)
        self._kid = kid
        self._issuer = issuer
        self._audience = audience
        self._typ = typ

    def sign(self, subject: str, ttl: timedelta, claims: Mapping[str, Any] | None = None) -> str:
        """Returns a token for `subject` that expires after `ttl`; `claims` cannot replace the standard ones."""
        now = time.time()
        payload = {
            **(claims or {}),
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "iat": int(now),
            "exp": int(now + ttl.total_seconds()),
            "jti": secrets.token_urlsafe(16),
        }
        return jwt.encode(payload, self._key, algorithm=ALGORITHM, headers={"typ": self._typ, "kid": self._kid})


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """One type of token that a service accepts."""

    issuer: str
    audience: str
    typ: str
    """Exact value of the `typ` header, e.g. `at+jwt`."""
    caller_kind: Caller
    """What a valid token makes of its bearer."""
    key_source: KeySource


class TokenVerifier:
    """Verifies tokens against a fixed list of trusted issuers."""

    def __init__(self, issuers: Sequence[TrustedIssuer]) -> None:
        self._by_typ: dict[str, TrustedIssuer] = {}
        for issuer in issuers:
            # One type, one issuer: the header alone then decides which key and claims a token must have.
            if issuer.typ in self._by_typ:
                raise ValueError(f"two trusted issuers for tokens of type {issuer.typ!r}")
            self._by_typ[issuer.typ] = issuer
        self._recent = _RecentlyVerified()

    async def verify(self, token: str) -> Principal:
        """Returns the principal that the token proves.

        Raises:
            TokenRejected: the token is not one of ours, not for us, or no longer valid.
            KeysUnavailable: there is nothing yet to verify it with.
        """
        known = self._recent.find(token)
        if known is not None:
            return known
        issuer, kid = self._trusted_issuer(_header(token))
        key = await issuer.key_source.find(kid)
        if key is None:
            raise TokenRejected(f"no key {kid[:32]!r} among those of {issuer.issuer}")
        claims = _verified_claims(token, key, issuer)
        principal = Principal(
            kind=issuer.caller_kind,
            subject=claims["sub"],
            roles=_roles(claims),
            claims=MappingProxyType(dict(claims)),
            token=token,
        )
        self._recent.add(principal)
        return principal

    def _trusted_issuer(self, header: Mapping[str, Any]) -> tuple[TrustedIssuer, str]:
        refused = _REFUSED_HEADERS.intersection(header)
        if refused:
            raise TokenRejected(f"header {sorted(refused)[0]!r} is refused")
        if header.get("alg") != ALGORITHM:
            raise TokenRejected(f"algorithm is not {ALGORITHM}")
        typ, kid = header.get("typ"), header.get("kid")
        issuer = self._by_typ.get(typ) if isinstance(typ, str) else None
        if issuer is None:
            raise TokenRejected("token type is not accepted here")
        if not isinstance(kid, str) or not kid or len(kid) > 128:
            raise TokenRejected("kid is missing")
        return issuer, kid


class _RecentlyVerified:
    """Principals verified within the last seconds: the signature check costs as much as a whole bare rpc.

    Short-lived, so that a key that was withdrawn stops working within seconds; bounded, so that many tokens cannot fill
    the memory; and never beyond the token's own end.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    def find(self, token: str) -> Principal | None:
        principal, good_until = self._entries.get(token, (None, 0.0))
        if principal is None:
            return None
        if time.monotonic() >= good_until or time.time() >= int(principal.claims["exp"]):
            del self._entries[token]
            return None
        return principal

    def add(self, principal: Principal) -> None:
        self._entries[principal.token] = (principal, time.monotonic() + _REMEMBER_SECONDS)
        self._entries.move_to_end(principal.token)
        if len(self._entries) > _REMEMBER_TOKENS:
            self._entries.popitem(last=False)


def _header(token: str) -> Mapping[str, Any]:
    if len(token) > MAX_TOKEN_LENGTH or not _COMPACT_JWT.fullmatch(token):
        raise TokenRejected("not a compact JWT")
    try:
        return jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise TokenRejected(f"unreadable header: {type(error).__name__}") from error


def _verified_claims(token: str, key: ec.EllipticCurvePublicKey, issuer: TrustedIssuer) -> Mapping[str, Any]:
    try:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=issuer.audience,
            issuer=issuer.issuer,
            leeway=LEEWAY,
            # `iat` only says when a token was made: one from a machine whose clock is ahead is no worse for that.
            options={"require": _REQUIRED_CLAIMS, "strict_aud": True, "verify_iat": False},
        )
    except jwt.PyJWTError as error:
        raise TokenRejected(f"claims refused: {type(error).__name__}") from error
    if not claims["sub"] or not claims["jti"]:
        raise TokenRejected("sub or jti is empty")
    return claims


def _roles(claims: Mapping[str, Any]) -> frozenset[str]:
    roles = claims.get("roles", [])
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise TokenRejected("roles is not a list of strings")
    return frozenset(roles)


def _load_private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the private key is not an EC key on P-256, which ES256 needs")
    return key
