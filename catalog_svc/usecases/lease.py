"""Work under a lease: it ends when the lease does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from meshkit.cancellation import cancel_all

T = TypeVar("T")
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0


async def under_lease(work: Coroutine[Any, Any, T], renew: Callable[[], Awaitable[None]], lease_seconds: float) -> T:
    """Does the work, renewing the lease three times in its length.

    Raises:
        LeaseLost: `renew` raised it; the work was cancelled, or failed because what it worked on had gone.
    """
    working = asyncio.create_task(work)
    renewals = asyncio.create_task(_keep(renew, lease_seconds / 3))
    try:
        await asyncio.wait({working, renewals}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            renewals.result()  # the lease is lost, or nobody can say
        return await working
    except Exception:
        # What was deleted meanwhile fails in many ways, and none of them is trouble.
        await renew()
        raise
    finally:
        await cancel_all(working, renewals)


async def give_back(release: Callable[[], Awaitable[None]], is_passing: Callable[[Exception], bool]) -> None:
    """Gives a lease back, trying again for as long as what is away stays away.

    A lease that is not given back counts as a death: an outage that the process outlives must not leave one.

    Raises:
        Exception: what `release` raised, and is not passing.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await release()
        except Exception as error:
            if not is_passing(error):
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


async def _keep(renew: Callable[[], Awaitable[None]], pause_seconds: float) -> None:
    while True:
        await asyncio.sleep(pause_seconds)
        await renew()
