"""Sessions and their refresh tokens: one token at a time, each used once."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NewType

from auth_svc.domain.user import UserId

SessionId = NewType("SessionId", str)
SESSION_ID_PREFIX = "ses"


class EndReason(enum.Enum):
    """Why a session ended."""

    LOGOUT = "logout"
    REUSE = "reuse"
    """A spent refresh token came back: somebody has a copy."""
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long sessions live."""

    refresh_ttl: timedelta
    """A session that is not refreshed for this long ends."""
    session_ttl: timedelta
    """A session ends after this time in any case."""
    replay_window: timedelta
    """How long after its use the last refresh token may be sent once more."""


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A stored refresh token together with its session, read under the session's lock."""

    session_id: SessionId
    user_id: UserId
    generation: int
    """Place in the session's chain of tokens, from 1."""
    newest_generation: int
    """Generation of the session's only unspent token."""
    expire_time: datetime
    spent_time: datetime | None
    is_replayed: bool
    has_session_ended: bool
    session_expire_time: datetime


class RefreshVerdict(enum.Enum):
    """What to do about a refresh token that somebody presents."""

    ROTATE = enum.auto()
    """Spend it and issue its successor."""
    REPLAY = enum.auto()
    """The answer to its first use was lost: give the same successor again."""
    END_SESSION = enum.auto()
    """It was used before by somebody: owner and thief cannot be told apart, so nobody stays signed in."""
    REFUSE = enum.auto()
    """It is no longer valid; nothing is suspicious."""


def judge_refresh(token: RefreshToken, now: datetime, replay_window: timedelta) -> RefreshVerdict:
    """Decides on a presented refresh token, after RFC 9700 section 4.14.2; `now` is the database's clock."""
    if token.has_session_ended or now >= token.session_expire_time:
        return RefreshVerdict.REFUSE
    if token.spent_time is None:
        return RefreshVerdict.ROTATE if now < token.expire_time else RefreshVerdict.REFUSE
    is_predecessor = token.generation == token.newest_generation - 1
    if is_predecessor and not token.is_replayed and now - token.spent_time <= replay_window:
        return RefreshVerdict.REPLAY
    return RefreshVerdict.END_SESSION


@dataclass(frozen=True, slots=True)
class SessionTokens:
    """What a client gets: both tokens and when they end."""

    access_token: str
    access_expire_time: datetime
    refresh_token: str
    refresh_expire_time: datetime
