from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_svc.domain.session import RefreshToken, RefreshVerdict, SessionId, judge_refresh
from auth_svc.domain.user import UserId

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
WINDOW = timedelta(seconds=20)
NEWEST = RefreshToken(
    session_id=SessionId("ses_1"),
    user_id=UserId("usr_1"),
    generation=3,
    newest_generation=3,
    expire_time=NOW + timedelta(days=30),
    spent_time=None,
    is_replayed=False,
    has_session_ended=False,
    session_expire_time=NOW + timedelta(days=90),
)
PREDECESSOR = replace(NEWEST, generation=2, spent_time=NOW - timedelta(seconds=5))


@pytest.mark.parametrize(
    ("token", "verdict"),
    [
        (NEWEST, RefreshVerdict.ROTATE),
        (replace(NEWEST, expire_time=NOW), RefreshVerdict.REFUSE),
        (replace(NEWEST, has_session_ended=True), RefreshVerdict.REFUSE),
        (replace(NEWEST, session_expire_time=NOW), RefreshVerdict.REFUSE),
        (PREDECESSOR, RefreshVerdict.REPLAY),
        (replace(PREDECESSOR, spent_time=NOW - WINDOW), RefreshVerdict.REPLAY),
        (replace(PREDECESSOR, spent_time=NOW - WINDOW - timedelta(microseconds=1)), RefreshVerdict.END_SESSION),
        (replace(PREDECESSOR, is_replayed=True), RefreshVerdict.END_SESSION),
        (replace(PREDECESSOR, generation=1), RefreshVerdict.END_SESSION),
        (replace(PREDECESSOR, has_session_ended=True), RefreshVerdict.REFUSE),
    ],
)
def test_judges_a_refresh_token(token: RefreshToken, verdict: RefreshVerdict) -> None:
    assert judge_refresh(token, NOW, WINDOW) is verdict


@given(
    generation=st.integers(1, 5),
    newest=st.integers(1, 5),
    spent_ago=st.none() | st.integers(0, 60),
    is_replayed=st.booleans(),
    has_ended=st.booleans(),
)
def test_no_old_token_ever_gets_anything(
    generation: int, newest: int, spent_ago: int | None, is_replayed: bool, has_ended: bool
) -> None:
    spent_time = None if spent_ago is None else NOW - timedelta(seconds=spent_ago)
    token = replace(
        NEWEST,
        generation=generation,
        newest_generation=newest,
        spent_time=spent_time,
        is_replayed=is_replayed,
        has_session_ended=has_ended,
    )
    verdict = judge_refresh(token, NOW, WINDOW)
    if verdict is RefreshVerdict.ROTATE:
        assert spent_time is None
        assert not has_ended
    if verdict is RefreshVerdict.REPLAY:
        assert generation == newest - 1
        assert spent_ago is not None
        assert spent_ago <= 20
        assert not is_replayed
        assert not has_ended
