"""Opens a session for a user who has proved who they are."""

from __future__ import annotations

from dataclasses import dataclass

from auth_svc.domain.session import SESSION_ID_PREFIX, SessionId, SessionTokens
from auth_svc.domain.user import User, UserId
from auth_svc.store.session_store import SessionStore
from auth_svc.usecases.issue_tokens import IssueTokens
from meshkit.ids import new_id


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A user and the tokens of their new session."""

    user: User
    session_id: SessionId
    tokens: SessionTokens


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Opens sessions."""

    sessions: SessionStore
    issue_tokens: IssueTokens

    async def __call__(self, user_id: UserId, address: str) -> SignedIn:
        """Opens a session.

        Raises:
            UserDisabled: the user is barred.
        """
        session_id = SessionId(new_id(SESSION_ID_PREFIX))
        refresh_token = self.issue_tokens.first_refresh_token()
        opened = await self.sessions.open(session_id, user_id, refresh_token, address)
        tokens = self.issue_tokens(opened.user, session_id, refresh_token, opened.refresh_expire_time)
        return SignedIn(opened.user, session_id, tokens)
