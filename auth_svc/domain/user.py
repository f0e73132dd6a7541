"""Users and what an admin may change of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NewType

UserId = NewType("UserId", str)
USER_ID_PREFIX = "usr"


class Role(enum.Enum):
    """What a user may do; the values stand in access tokens and in the database."""

    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class User:
    """A person who signed up."""

    id: UserId
    username: str
    email: str
    roles: frozenset[Role]
    disabled: bool
    create_time: datetime
    update_time: datetime
    revision: int
    """Counts the changes, from 1."""

    @property
    def etag(self) -> str:
        """Differs after every change."""
        return f"r{self.revision}"

    @property
    def manages_users(self) -> bool:
        """True for an admin who is not barred."""
        return Role.ADMIN in self.roles and not self.disabled


@dataclass(frozen=True, slots=True)
class UserChange:
    """What an admin wants changed; None leaves a field as it is."""

    roles: frozenset[Role] | None = None
    disabled: bool | None = None

    def apply(self, user: User) -> User:
        """Returns the user with the new values; times and revision are the store's."""
        return replace(
            user,
            roles=user.roles if self.roles is None else self.roles,
            disabled=user.disabled if self.disabled is None else self.disabled,
        )
