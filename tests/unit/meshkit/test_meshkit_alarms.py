"""Time limits whose timers are set late: they end what they limit all the same, and not too early."""

from __future__ import annotations

import asyncio

import pytest

from meshkit.rpc.interceptors import deadline
from meshkit.rpc.interceptors.deadline import _Alarms
from meshkit.testing import assert_eventually


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.3])
async def test_a_limit_ends_what_it_limits(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "_LOOK_SECONDS", 0.05)
    loop, alarms = asyncio.get_running_loop(), _Alarms()
    expires_at = loop.time() + seconds
    limit = asyncio.timeout(None)
    with pytest.raises(TimeoutError):
        await _wait_within(limit, expires_at, alarms)
    assert limit.expired()
    assert loop.time() >= expires_at


async def test_a_limit_that_was_left_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "_LOOK_SECONDS", 0.01)
    loop, alarms = asyncio.get_running_loop(), _Alarms()
    left, kept = asyncio.timeout(None), asyncio.timeout(None)
    async with left:
        alarms.set(left, loop.time() + 0.1)
    alarms.drop(left)
    with pytest.raises(TimeoutError):
        await _wait_within(kept, loop.time() + 0.2, alarms)
    assert not left.expired()
    # Nobody looks any more, until there is something to look at again.
    await assert_eventually(lambda: alarms._look is None)
    async with asyncio.timeout(None) as again:
        alarms.set(again, loop.time() + 60)
        assert alarms._look is not None
    alarms.drop(again)
    await assert_eventually(lambda: alarms._look is None)


async def _wait_within(limit: asyncio.Timeout, expires_at: float, alarms: _Alarms) -> None:
    try:
        async with limit:
            alarms.set(limit, expires_at)
            await asyncio.Event().wait()
    finally:
        alarms.drop(limit)
