"""Trades a refresh token for the session's next tokens."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from auth_svc import metrics
from auth_svc.domain.errors import RefreshTokenInvalid
from auth_svc.domain.session import RefreshVerdict, SessionTokens
from auth_svc.store.session_store import SessionStore
from auth_svc.usecases.issue_tokens import IssueTokens


@dataclass(frozen=True, slots=True)
class RefreshSession:
    """Keeps sessions going."""

    sessions: SessionStore
    issue_tokens: IssueTokens

    async def __call__(self, refresh_token: str, address: str) -> SessionTokens:
        """Returns the next tokens.

        Raises:
            RefreshTokenInvalid: unknown, expired, of an ended session, or used before; the last ends the session.
        """
        successor = self.issue_tokens.successor_of(refresh_token)
        result = await self.sessions.refresh(refresh_token, successor)
        is_reused = result.verdict is RefreshVerdict.END_SESSION
        if is_reused:
            structlog.get_logger().warning("audit.refresh_reused", session_id=result.session_id, address=address)
        if result.session_id is None or result.user is None or result.refresh_expire_time is None:
            metrics.REFRESHES.labels("reused" if is_reused else "refused").inc()
            raise RefreshTokenInvalid
        metrics.REFRESHES.labels("ok").inc()
        return self.issue_tokens(result.user, result.session_id, successor, result.refresh_expire_time)
