"""Sessions and refresh tokens in Postgres; tokens only as digests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from auth_svc.domain.errors import SessionEnded, UserDisabled
from auth_svc.domain.session import EndReason, RefreshToken, RefreshVerdict, SessionId, SessionLimits, judge_refresh
from auth_svc.domain.user import User, UserId
from auth_svc.store.queries import queries
from auth_svc.store.user_store import user_from_row
from meshkit.postgres import Connection, Pool, transaction


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """How the use of a refresh token ended."""

    verdict: RefreshVerdict
    session_id: SessionId | None = None
    user: User | None = None
    """Set when the session goes on."""
    refresh_expire_time: datetime | None = None
    """When the successor ends; set when the session goes on."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session."""

    user: User
    refresh_expire_time: datetime = field(kw_only=True)


class SessionStore:
    """Keeps sessions, each a chain of refresh tokens of which only the newest is unspent."""

    def __init__(self, pool: Pool, limits: SessionLimits) -> None:
        self._pool = pool
        self._limits = limits

    async def open(self, session_id: SessionId, user_id: UserId, refresh_token: str, address: str) -> OpenedSession:
        """Opens a session with its first refresh token.

        Raises:
            UserDisabled: the user is barred, or was just now.
        """
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(queries().lock_enabled_user, user_id)
            if row is None:
                raise UserDisabled
            await connection.execute(queries().insert_session, session_id, user_id, address, self._limits.session_ttl)
            expire_time = await self._add_token(connection, session_id, refresh_token, 1)
            return OpenedSession(user_from_row(row), refresh_expire_time=expire_time)

    async def refresh(self, presented: str, successor: str) -> RefreshResult:
        """Uses a refresh token: its successor becomes valid, or stays so on a permitted replay.

        `successor` must be the same for every call with the same `presented`. A re-used token ends the session.
        """
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(queries().lock_refresh_token, _digest(presented))
            if row is None:
                return RefreshResult(RefreshVerdict.REFUSE)
            token = _refresh_token_from_row(row)
            verdict = judge_refresh(token, row["now"], self._limits.replay_window)
            if verdict is RefreshVerdict.END_SESSION:
                await self._end(connection, token, EndReason.REUSE)
            if verdict not in (RefreshVerdict.ROTATE, RefreshVerdict.REPLAY):
                return RefreshResult(verdict, token.session_id)
            user = user_from_row(await connection.fetchrow(queries().get_user, token.user_id))
            if verdict is RefreshVerdict.ROTATE:
                expire_time = await self._rotate(connection, token, presented, successor)
            else:
                await connection.execute(queries().mark_replayed, _digest(presented))
                expire_time = await connection.fetchval(
                    queries().get_refresh_expiry, _digest(successor), token.session_id
                )
            if expire_time is None:
                # The successor was derived with another key than now: it cannot be given again.
                await self._end(connection, token, EndReason.REUSE)
                return RefreshResult(RefreshVerdict.END_SESSION, token.session_id)
            return RefreshResult(verdict, token.session_id, user, expire_time)

    async def end(self, session_id: SessionId, user_id: UserId, reason: EndReason) -> bool:
        """Ends a user's session; False if it had ended before."""
        status = await self._pool.execute(queries().end_session, session_id, user_id, reason.value)
        return status == "UPDATE 1"

    async def list_ended(self, within: timedelta) -> list[str]:
        """Lists the ids of sessions that ended within that time."""
        return [row["id"] for row in await self._pool.fetch(queries().list_ended_sessions, within)]

    async def get_live_user(self, session_id: SessionId, user_id: UserId) -> User:
        """Gets the user of a session, as they are now.

        Raises:
            SessionEnded: the session has ended or expired, or the user is barred.
        """
        row = await self._pool.fetchrow(queries().get_live_user, session_id, user_id)
        if row is None:
            raise SessionEnded
        return user_from_row(row)

    async def delete_old(self) -> None:
        """Deletes sessions that nothing can bring back."""
        await self._pool.execute(queries().delete_old_sessions)

    async def _rotate(self, connection: Connection, token: RefreshToken, presented: str, successor: str) -> Any:
        generation = token.generation + 1
        await connection.execute(queries().spend_refresh_token, _digest(presented))
        await connection.execute(queries().advance_session, token.session_id, generation)
        return await self._add_token(connection, token.session_id, successor, generation)

    async def _add_token(self, connection: Connection, session_id: SessionId, token: str, generation: int) -> Any:
        return await connection.fetchval(
            queries().insert_refresh_token, _digest(token), session_id, generation, self._limits.refresh_ttl
        )

    async def _end(self, connection: Connection, token: RefreshToken, reason: EndReason) -> None:
        await connection.execute(queries().end_session, token.session_id, token.user_id, reason.value)


def _digest(token: str) -> bytes:
    # A plain digest suffices: the token has 256 random bits, so there is nothing to guess.
    return hashlib.sha256(token.encode()).digest()


def _refresh_token_from_row(row: Any) -> RefreshToken:
    return RefreshToken(
        session_id=SessionId(row["session_id"]),
        user_id=UserId(row["user_id"]),
        generation=row["generation"],
        newest_generation=row["newest_generation"],
        expire_time=row["expire_time"],
        spent_time=row["spent_time"],
        is_replayed=row["is_replayed"],
        has_session_ended=row["has_session_ended"],
        session_expire_time=row["session_expire_time"],
    )
