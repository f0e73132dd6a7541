"""The kinds of token of the mesh: who signs each, whom it is for, and its type; for all who sign or verify them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshkit.auth.keys import KeySource
from meshkit.auth.principal import Caller
from meshkit.auth.tokens import TokenSigner, TrustedIssuer


@dataclass(frozen=True, slots=True)
class TokenKind:
    """One kind of token."""

    issuer: str
    audience: str
    typ: str
    caller: Caller

    def signer(self, private_key_pem: bytes, kid: str) -> TokenSigner:
        """Signs such tokens."""
        return TokenSigner(private_key_pem, kid=kid, issuer=self.issuer, audience=self.audience, typ=self.typ)

    def trusted(self, keys: KeySource) -> TrustedIssuer:
        """Has them accepted."""
        return TrustedIssuer(self.issuer, self.audience, self.typ, self.caller, keys)


USER_TOKEN: Final = TokenKind("reeltune-auth", "reeltune", "at+jwt", Caller.USER)
WORKER_TOKEN: Final = TokenKind("reeltune-scheduler", "reeltune-workers", "wk+jwt", Caller.WORKER)
ATTEMPT_GRANT: Final = TokenKind("reeltune-scheduler", "reeltune-attempts", "ag+jwt", Caller.ATTEMPT)
