"""What admins do with users."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog

from auth_svc import metrics
from auth_svc.domain.errors import RoleRequired
from auth_svc.domain.session import SessionId
from auth_svc.domain.user import User, UserChange, UserId
from auth_svc.store.session_store import SessionStore
from auth_svc.store.user_store import UserQuery, UserStore


@dataclass(frozen=True, slots=True)
class Account:
    """The caller, as the access token names them."""

    user_id: UserId
    session_id: SessionId


@dataclass(frozen=True, slots=True)
class ManageUsers:
    """Lists and changes users. Asks the database who the caller is: their token may be older than their demotion."""

    users: UserStore
    sessions: SessionStore

    async def list_page(
        self, caller: Account, query: UserQuery, after: tuple[datetime, str] | None, limit: int
    ) -> list[User]:
        """Lists users, newest first, after a position.

        Raises:
            SessionEnded, RoleRequired: the caller is no longer signed in, or no longer an admin.
        """
        await self._require_admin(caller)
        return await self.users.list_page(query, after, limit)

    async def update(self, caller: Account, user_id: UserId, change: UserChange, etag: str, address: str) -> User:
        """Changes a user.

        Raises:
            SessionEnded, RoleRequired: the caller is no longer signed in, or no longer an admin.
            UserNotFound, EtagMismatch, LastAdmin: see `UserStore.update`.
        """
        await self._require_admin(caller)
        user = await self.users.update(user_id, change, etag)
        metrics.USER_CHANGES.inc()
        structlog.get_logger().info(
            "audit.user_updated",
            by=caller.user_id,
            user_id=user.id,
            roles=sorted(role.value for role in user.roles),
            disabled=user.disabled,
            address=address,
        )
        return user

    async def _require_admin(self, caller: Account) -> None:
        user = await self.sessions.get_live_user(caller.session_id, caller.user_id)
        if not user.manages_users:
            raise RoleRequired
