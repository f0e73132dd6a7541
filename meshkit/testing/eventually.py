"""Waiting for what happens soon, without sleeping for a guess."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")
_POLL_SECONDS = (0.02, 0.2)
"""At first, and in a long wait: what is asked all the time makes slower what it waits for."""


async def assert_eventually(check: Callable[[], Awaitable[_T] | _T], timeout: float = 60) -> _T:
    """Calls `check` until it returns something true, and returns that; an AssertionError of its own counts as false.

    Raises:
        AssertionError: the time is over; it quotes the last answer.
    """
    began = time.monotonic()
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
        waited = time.monotonic() - began
        if waited > timeout:
            raise AssertionError(f"still not so after {timeout} s; last answer: {last!r}")
        await asyncio.sleep(min(max(_POLL_SECONDS[0], waited / 10), _POLL_SECONDS[1]))
