"""Users in Postgres."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from auth_svc.domain.errors import EmailTaken, EtagMismatch, LastAdmin, UsernameTaken, UserNotFound
from auth_svc.domain.session import EndReason
from auth_svc.domain.user import Role, User, UserChange, UserId
from auth_svc.store.queries import queries
from meshkit.postgres import Pool, transaction


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and the hash that a password is held against."""

    user: User
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class UserQuery:
    """Which users to list; texts are compared without regard to case, and all conditions must hold."""

    username_like: Sequence[str] = ()
    """Patterns of SQL's LIKE, in lower case."""
    username_unlike: Sequence[str] = ()
    email_like: Sequence[str] = ()
    email_unlike: Sequence[str] = ()
    disabled: Sequence[bool] = ()


class UserStore:
    """Keeps users. All names are unique without regard to case."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, user_id: UserId, username: str, email: str, password_hash: str) -> User:
        """Adds a user.

        Raises:
            UsernameTaken, EmailTaken: somebody has that name.
        """
        try:
            row = await self._pool.fetchrow(queries().insert_user, user_id, username, email, password_hash)
        except asyncpg.UniqueViolationError as error:
            raise EmailTaken() if error.constraint_name == "users_email_key" else UsernameTaken() from error
        return user_from_row(row)

    async def check_names_are_free(self, username: str, email: str) -> None:
        """Raises UsernameTaken or EmailTaken; `add` still decides, this only spares the hashing of a password."""
        row: Any = await self._pool.fetchrow(queries().find_taken_names, username, email)
        if row["username_taken"]:
            raise UsernameTaken
        if row["email_taken"]:
            raise EmailTaken

    async def find_credentials(self, name: str) -> Credentials | None:
        """Finds who signs in with this username or e-mail address."""
        if "\0" in name:  # no stored name holds it, and Postgres cannot even compare with it
            return None
        row = await self._pool.fetchrow(queries().find_credentials, name)
        return None if row is None else Credentials(user_from_row(row), row["password_hash"])

    async def get(self, user_id: UserId) -> User:
        """Gets a user.

        Raises:
            UserNotFound: there is none.
        """
        row = await self._pool.fetchrow(queries().get_user, user_id)
        if row is None:
            raise UserNotFound(user_id)
        return user_from_row(row)

    async def upgrade_password_hash(self, user_id: UserId, old_hash: str, new_hash: str) -> None:
        """Replaces a hash by one of the same password with newer parameters."""
        await self._pool.execute(queries().upgrade_password_hash, user_id, old_hash, new_hash)

    async def list_page(self, query: UserQuery, after: tuple[datetime, str] | None, limit: int) -> list[User]:
        """Lists users, newest first, after a position `(create_time, id)`."""
        after_time, after_id = after or (None, None)
        rows = await self._pool.fetch(
            queries().list_users,
            after_time,
            after_id,
            query.username_like,
            query.username_unlike,
            query.email_like,
            query.email_unlike,
            query.disabled,
            limit,
        )
        return [user_from_row(row) for row in rows]

    async def update(self, user_id: UserId, change: UserChange, etag: str) -> User:
        """Changes a user, and ends their sessions if that bars them.

        Raises:
            UserNotFound: there is none.
            EtagMismatch: `etag` is given and not the current one.
            LastAdmin: nobody would be left who manages users.
        """
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(queries().lock_user_and_admins, user_id)
            locked = {user.id: user for user in map(user_from_row, rows)}
            user = locked.get(user_id)
            if user is None:
                raise UserNotFound(user_id)
            if etag and etag != user.etag:
                raise EtagMismatch(user_id)
            changed = change.apply(user)
            _check_an_admin_is_left(user, changed, locked.values())
            row = await connection.fetchrow(
                queries().update_user, user_id, sorted(role.value for role in changed.roles), changed.disabled
            )
            if changed.disabled:
                await connection.execute(queries().end_sessions_of_user, user_id, EndReason.DISABLED.value)
            return user_from_row(row)

    async def grant_admin(self, username: str) -> UserId:
        """Makes a user an admin; does nothing for one who is.

        Raises:
            UserNotFound: there is no such user.
        """
        granted = await self._pool.fetchval(queries().grant_admin, username)
        user_id = granted or await self._pool.fetchval(queries().find_user_id, username)
        if user_id is None:
            raise UserNotFound(username)
        return UserId(user_id)


def user_from_row(row: Any) -> User:
    """Returns the user in a row with the columns of `get_user`."""
    return User(
        id=UserId(row["id"]),
        username=row["username"],
        email=row["email"],
        roles=frozenset(Role(role) for role in row["roles"]),
        disabled=row["disabled"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        revision=row["revision"],
    )


def _check_an_admin_is_left(before: User, after: User, locked: Iterable[User]) -> None:
    if not before.manages_users or after.manages_users:
        return
    if not any(user.manages_users for user in locked if user.id != before.id):
        raise LastAdmin(before.id)
