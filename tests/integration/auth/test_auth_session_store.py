from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from auth_svc.domain.errors import SessionEnded, UserDisabled
from auth_svc.domain.session import EndReason, RefreshVerdict, SessionId
from auth_svc.domain.user import User, UserChange, UserId
from auth_svc.store.session_store import SessionStore
from auth_svc.store.user_store import UserStore
from meshkit.ids import new_id
from meshkit.postgres import Pool

FIRST = "refresh-token-1"


def successor(token: str) -> str:
    head, _, number = token.rpartition("-")
    return f"{head}-{int(number) + 1}"


@pytest_asyncio.fixture(loop_scope="session")
async def session_id(sessions: SessionStore, ada: User) -> SessionId:
    session_id = SessionId(new_id("ses"))
    await sessions.open(session_id, ada.id, FIRST, "192.0.2.1")
    return session_id


async def refresh(sessions: SessionStore, token: str) -> RefreshVerdict:
    return (await sessions.refresh(token, successor(token))).verdict


async def end_reason(pool: Pool, session_id: SessionId) -> str | None:
    reason: str | None = await pool.fetchval("SELECT end_reason FROM sessions WHERE id = $1", session_id)
    return reason


async def test_tokens_are_stored_as_digests_only(pool: Pool, sessions: SessionStore, session_id: SessionId) -> None:
    await refresh(sessions, FIRST)
    stored = await pool.fetch("SELECT t::text AS row FROM refresh_tokens t UNION ALL SELECT s::text FROM sessions s")
    assert len(stored) == 3
    assert not any("refresh-token" in row["row"] for row in stored)


async def test_each_token_works_once_and_leads_to_the_next(
    sessions: SessionStore, session_id: SessionId, ada: User
) -> None:
    token = FIRST
    for _ in range(5):
        assert await refresh(sessions, token) is RefreshVerdict.ROTATE
        token = successor(token)
    assert await sessions.get_live_user(session_id, ada.id) == ada


async def test_a_lost_response_is_repeated_once_with_the_same_successor(
    sessions: SessionStore, session_id: SessionId, pool: Pool
) -> None:
    first = await sessions.refresh(FIRST, successor(FIRST))
    again = await sessions.refresh(FIRST, successor(FIRST))
    assert (first.verdict, again.verdict) == (RefreshVerdict.ROTATE, RefreshVerdict.REPLAY)
    assert first.refresh_expire_time == again.refresh_expire_time
    assert await pool.fetchval("SELECT count(*) FROM refresh_tokens") == 2
    assert await refresh(sessions, successor(FIRST)) is RefreshVerdict.ROTATE


async def test_a_second_repeat_ends_the_session(sessions: SessionStore, session_id: SessionId, pool: Pool) -> None:
    verdicts = [await refresh(sessions, FIRST) for _ in range(4)]
    assert verdicts == [
        RefreshVerdict.ROTATE,
        RefreshVerdict.REPLAY,
        RefreshVerdict.END_SESSION,
        RefreshVerdict.REFUSE,
    ]
    assert await end_reason(pool, session_id) == "reuse"
    assert await refresh(sessions, successor(FIRST)) is RefreshVerdict.REFUSE


async def test_an_older_token_ends_the_session(
    sessions: SessionStore, session_id: SessionId, ada: User, pool: Pool
) -> None:
    await refresh(sessions, FIRST)
    await refresh(sessions, successor(FIRST))
    assert await refresh(sessions, FIRST) is RefreshVerdict.END_SESSION
    assert await refresh(sessions, successor(successor(FIRST))) is RefreshVerdict.REFUSE
    with pytest.raises(SessionEnded):
        await sessions.get_live_user(session_id, ada.id)


async def test_the_predecessor_ends_the_session_once_the_window_is_over(
    sessions: SessionStore, session_id: SessionId, pool: Pool
) -> None:
    await refresh(sessions, FIRST)
    await pool.execute("UPDATE refresh_tokens SET spent_time = spent_time - interval '21 s' WHERE generation = 1")
    assert await refresh(sessions, FIRST) is RefreshVerdict.END_SESSION
    assert await end_reason(pool, session_id) == "reuse"


async def test_one_ended_session_leaves_the_others(sessions: SessionStore, session_id: SessionId, ada: User) -> None:
    other = SessionId(new_id("ses"))
    await sessions.open(other, ada.id, "other-1", "192.0.2.1")
    for _ in range(3):
        await refresh(sessions, FIRST)
    assert await refresh(sessions, "other-1") is RefreshVerdict.ROTATE
    assert await sessions.get_live_user(other, ada.id) == ada


async def test_a_successor_that_another_key_derived_is_never_given(
    sessions: SessionStore, session_id: SessionId, pool: Pool
) -> None:
    await sessions.refresh(FIRST, "derived-with-the-old-key")
    assert (await sessions.refresh(FIRST, "derived-with-a-new-key")).verdict is RefreshVerdict.END_SESSION
    assert await end_reason(pool, session_id) == "reuse"


@pytest.mark.parametrize("round_number", range(5))
async def test_of_twenty_racing_calls_two_get_one_successor_and_the_rest_end_the_session(
    sessions: SessionStore, session_id: SessionId, pool: Pool, round_number: int
) -> None:
    results = await asyncio.gather(*(sessions.refresh(FIRST, successor(FIRST)) for _ in range(20)))
    verdicts = [result.verdict for result in results]
    assert verdicts.count(RefreshVerdict.ROTATE) == 1
    assert verdicts.count(RefreshVerdict.REPLAY) == 1
    assert verdicts.count(RefreshVerdict.END_SESSION) == 1
    assert verdicts.count(RefreshVerdict.REFUSE) == 17
    assert await pool.fetchval("SELECT count(*) FROM refresh_tokens") == 2
    assert await end_reason(pool, session_id) == "reuse"


async def test_two_racing_calls_leave_the_session_alive(sessions: SessionStore, session_id: SessionId) -> None:
    token = FIRST
    for _ in range(10):
        results = await asyncio.gather(*(sessions.refresh(token, successor(token)) for _ in range(2)))
        assert {result.verdict for result in results} == {RefreshVerdict.ROTATE, RefreshVerdict.REPLAY}
        token = successor(token)


async def test_unknown_and_expired_tokens_are_refused(
    sessions: SessionStore, session_id: SessionId, pool: Pool
) -> None:
    assert await refresh(sessions, "made-up-1") is RefreshVerdict.REFUSE
    await pool.execute("UPDATE refresh_tokens SET expire_time = now() - interval '1 s'")
    assert await refresh(sessions, FIRST) is RefreshVerdict.REFUSE
    assert await end_reason(pool, session_id) is None


async def test_a_token_never_outlives_its_session(sessions: SessionStore, session_id: SessionId, pool: Pool) -> None:
    await pool.execute("UPDATE sessions SET expire_time = now() + interval '1 hour'")
    result = await sessions.refresh(FIRST, successor(FIRST))
    assert result.refresh_expire_time == await pool.fetchval("SELECT expire_time FROM sessions")
    await pool.execute("UPDATE sessions SET expire_time = now() - interval '1 s'")
    assert await refresh(sessions, successor(FIRST)) is RefreshVerdict.REFUSE


async def test_logging_out_ends_one_session_once(sessions: SessionStore, session_id: SessionId, ada: User) -> None:
    assert not await sessions.end(session_id, UserId("usr_other"), EndReason.LOGOUT)
    assert await sessions.end(session_id, ada.id, EndReason.LOGOUT)
    assert not await sessions.end(session_id, ada.id, EndReason.LOGOUT)
    assert await refresh(sessions, FIRST) is RefreshVerdict.REFUSE


async def test_a_user_barred_during_a_log_in_gets_no_session(
    users: UserStore, sessions: SessionStore, ada: User, pool: Pool
) -> None:
    opening = (sessions.open(SessionId(new_id("ses")), ada.id, f"racing-{n}", "192.0.2.1") for n in range(10))
    results = await asyncio.gather(
        *opening, users.update(ada.id, UserChange(disabled=True), ""), return_exceptions=True
    )
    assert all(isinstance(result, UserDisabled) or not isinstance(result, BaseException) for result in results)
    assert await pool.fetchval("SELECT count(*) FROM sessions WHERE end_time IS NULL") == 0
    with pytest.raises(UserDisabled):
        await sessions.open(SessionId(new_id("ses")), ada.id, "late", "192.0.2.1")


async def test_old_sessions_are_deleted_with_their_tokens(
    sessions: SessionStore, session_id: SessionId, ada: User, pool: Pool
) -> None:
    live = SessionId(new_id("ses"))
    await sessions.open(live, ada.id, "live-1", "192.0.2.1")
    await sessions.end(session_id, ada.id, EndReason.LOGOUT)
    await sessions.delete_old()
    assert await pool.fetchval("SELECT count(*) FROM sessions") == 2
    await pool.execute("UPDATE sessions SET end_time = end_time - interval '8 days' WHERE end_time IS NOT NULL")
    await sessions.delete_old()
    assert [row["id"] for row in await pool.fetch("SELECT id FROM sessions")] == [live]
    assert await pool.fetchval("SELECT count(*) FROM refresh_tokens") == 1
