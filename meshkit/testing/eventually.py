"""Waiting for what happens soon, without sleeping for a guess."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")
_POLL_SECONDS = 0.02


async def assert_eventually(check: Callable[[], Awaitable[_T] | _T], timeout: float = 30) -> _T:
    """Calls `check` until it returns something true, and returns that; an AssertionError of its own counts as false.

    Raises:
        AssertionError: the time is over; it quotes the last answer.
    """
    give_up_at = time.monotonic() + timeout
    while True:
        last: object
        try:
            answer = check()
            value: _T = await answer if inspect.isawaitable(answer) else answer
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        if time.monotonic() > give_up_at:
            raise AssertionError(f"still not so after {timeout} s; last answer: {last!r}")
        await asyncio.sleep(_POLL_SECONDS)
