"""Makes the tokens of a session."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from auth_svc import metrics
from auth_svc.domain.session import SessionId, SessionTokens
from auth_svc.domain.user import User
from auth_svc.usecases.key_ring import KeyRing

_TOKEN_BYTES = 32
_SUCCESSOR = b"reeltune refresh token successor\0"


@dataclass(frozen=True, slots=True)
class IssueTokens:
    """Makes access tokens, first refresh tokens, and the successor of a refresh token."""

    keys: KeyRing
    refresh_key: bytes = field(repr=False)
    access_ttl: timedelta

    def __call__(
        self, user: User, session_id: SessionId, refresh_token: str, refresh_expire_time: datetime
    ) -> SessionTokens:
        """Returns the session's tokens, with a new access token that names the user's present roles."""
        expire_time = datetime.now(UTC).replace(microsecond=0) + self.access_ttl
        access_token = self.keys.signer().sign(
            user.id, self.access_ttl, {"roles": sorted(role.value for role in user.roles), "sid": session_id}
        )
        metrics.TOKENS.inc()
        return SessionTokens(access_token, expire_time, refresh_token, refresh_expire_time)

    def first_refresh_token(self) -> str:
        """Returns 256 random bits in base64url."""
        return secrets.token_urlsafe(_TOKEN_BYTES)

    def successor_of(self, refresh_token: str) -> str:
        """Returns the one refresh token that follows this one: HMAC-SHA256 of it under the service's key.

        A lost response must be repeatable although only digests are stored: the presented token and the key together
        give the successor again. Without the key, neither a stolen spent token nor the database gives it.
        """
        digest = hmac.digest(self.refresh_key, _SUCCESSOR + refresh_token.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
