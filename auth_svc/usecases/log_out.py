"""Ends a session."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from auth_svc import metrics
from auth_svc.domain.session import EndReason, SessionId
from auth_svc.domain.user import UserId
from auth_svc.store.session_store import SessionStore


@dataclass(frozen=True, slots=True)
class LogOut:
    """Signs users out."""

    sessions: SessionStore

    async def __call__(self, session_id: SessionId, user_id: UserId, address: str) -> None:
        """Ends the session; does nothing if it has ended."""
        if await self.sessions.end(session_id, user_id, EndReason.LOGOUT):
            metrics.LOG_OUTS.inc()
            structlog.get_logger().info("audit.log_out", user_id=user_id, session_id=session_id, address=address)
