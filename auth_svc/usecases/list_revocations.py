"""Which access tokens are good no more before their time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from auth_svc import metrics
from auth_svc.store.session_store import SessionStore
from meshkit.auth.revocations import session_digest

MARGIN = timedelta(minutes=2)
"""Tokens are believed a little beyond their end, and clocks differ."""


@dataclass(frozen=True, slots=True)
class ListRevocations:
    """Tells of sessions that have ended and whose access tokens have not."""

    sessions: SessionStore
    access_ttl: timedelta

    @property
    def window(self) -> timedelta:
        """How long an ended session is told of."""
        return self.access_ttl + MARGIN

    async def __call__(self) -> list[bytes]:
        """Returns the digests of their ids."""
        digests = [session_digest(session_id) for session_id in await self.sessions.list_ended(self.window)]
        metrics.REVOKED.set(len(digests))
        return digests
