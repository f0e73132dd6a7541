"""Servicers behind a real server on a free port, and tokens that it accepts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc

from meshkit.auth.keys import StaticKeys
from meshkit.auth.principal import Caller
from meshkit.auth.tokens import TokenSigner, TokenVerifier, TrustedIssuer, generate_private_key, public_pem
from meshkit.rpc.client import bearer
from meshkit.rpc.server import BoundServer

_KID = "test-key"
_ISSUER = "test-issuer"
_AUDIENCE = "test-audience"
_KINDS = (Caller.USER, Caller.WORKER, Caller.ATTEMPT, Caller.SERVICE)


class TokenMint:
    """Signs tokens of every kind, and makes the verifier that accepts exactly these."""

    def __init__(self) -> None:
        self.private_key_pem = generate_private_key()
        self.kid = _KID
        self.issuer = _ISSUER
        self.audience = _AUDIENCE
        keys = StaticKeys({_KID: public_pem(self.private_key_pem)})
        self.verifier = TokenVerifier(
            [TrustedIssuer(_ISSUER, _AUDIENCE, self.typ(kind), kind, keys) for kind in _KINDS]
        )

    def typ(self, kind: Caller) -> str:
        """Returns the `typ` header of tokens of a kind."""
        return f"{kind.name.lower()}+jwt"

    def token(
        self,
        kind: Caller,
        subject: str,
        *,
        roles: tuple[str, ...] = (),
        claims: dict[str, Any] | None = None,
        ttl: timedelta = timedelta(minutes=5),
    ) -> str:
        """Returns a signed token."""
        signer = TokenSigner(self.private_key_pem, kid=_KID, issuer=_ISSUER, audience=_AUDIENCE, typ=self.typ(kind))
        return signer.sign(subject, ttl, {"roles": list(roles), **(claims or {})})

    def user(self, subject: str = "usr_1", *roles: str) -> tuple[tuple[str, str], ...]:
        """Returns call metadata of a signed-in user."""
        return bearer(self.token(Caller.USER, subject, roles=roles or ("user",)))

    def admin(self, subject: str = "usr_admin") -> tuple[tuple[str, str], ...]:
        """Returns call metadata of an administrator."""
        return self.user(subject, "user", "admin")

    def machine(self, kind: Caller, subject: str, **claims: Any) -> tuple[tuple[str, str], ...]:
        """Returns call metadata of a worker, an attempt or a service."""
        return bearer(self.token(kind, subject, claims=claims))


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and a channel to it."""

    channel: grpc.aio.Channel
    bound: BoundServer

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.bound.port}"
