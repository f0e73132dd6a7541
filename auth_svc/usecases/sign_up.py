"""Creates a user and signs them in."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from auth_svc import metrics
from auth_svc.domain.password import PasswordPolicy, normalise_password
from auth_svc.domain.user import USER_ID_PREFIX, UserId
from auth_svc.store.user_store import UserStore
from auth_svc.usecases.open_session import OpenSession, SignedIn
from auth_svc.usecases.password_hasher import PasswordHasher
from meshkit.ids import new_id


@dataclass(frozen=True, slots=True)
class SignUp:
    """Signs users up."""

    users: UserStore
    hasher: PasswordHasher
    policy: PasswordPolicy
    open_session: OpenSession

    async def __call__(self, username: str, email: str, password: str, address: str) -> SignedIn:
        """Creates a user.

        Raises:
            InvalidField: the password is refused.
            UsernameTaken, EmailTaken: somebody has that name.
            PasswordQueueFull: too many passwords wait to be hashed.
        """
        self.policy.check(normalise_password(password), username=username, email=email)
        await self.users.check_names_are_free(username, email)
        password_hash = await self.hasher.hash(password)
        user = await self.users.add(UserId(new_id(USER_ID_PREFIX)), username, email, password_hash)
        metrics.SIGN_UPS.inc()
        structlog.get_logger().info("audit.sign_up", user_id=user.id, username=user.username, address=address)
        return await self.open_session(user.id, address)
