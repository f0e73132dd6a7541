"""Cancelling tasks until they have ended, and cancellations that libraries lose, found again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def cancel_all(*futures: asyncio.Future[Any]) -> None:
    """Cancels tasks and returns once they have ended, whatever they raise; of those that are done nothing is heard."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


async def heard(awaitable: Awaitable[T]) -> T:
    """Awaits; raises the cancellation of this task that came meanwhile and that the awaited code kept to itself.

    Before Python 3.12 `asyncio.wait_for` returns its result as if nothing had happened when a cancellation comes in the
    moment in which it is there (python/cpython#86296), and a loop that lives on such calls never ends.
    """
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    try:
        result = await awaitable
    except Exception as error:
        if task.cancelling() > cancellations:
            raise asyncio.CancelledError from error
        raise
    if task.cancelling() > cancellations:
        raise asyncio.CancelledError
    return result
