"""Those who wait: for what another is fetching already, and for their turn to ask."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from trainer_svc.domain.errors import InferenceBusyError
from trainer_svc.usecases.content_cache import ContentCache
from trainer_svc.usecases.take_turns import Turns


def test_one_thing_is_never_fetched_twice_at_a_time_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, cast(Any, None), budget_bytes=0)
    within, most = 0, 0

    async def fetch(*, fails: bool = False) -> None:
        nonlocal within, most
        async with cache._locked("one"):
            within += 1
            most = max(most, within)
            await asyncio.sleep(0)
            within -= 1
            if fails:
                raise OSError("full")

    async def twice() -> None:
        await fetch()
        # The other one is about to get the lock, and has not yet.
        await fetch()

    async def all_of_them() -> None:
        await asyncio.gather(twice(), fetch())
        with pytest.raises(OSError, match="full"):
            await fetch(fails=True)

    asyncio.run(all_of_them())
    assert most == 1
    assert not cache._locks


def test_whoever_finds_no_room_learns_it_before_anything_is_fetched() -> None:
    async def ask() -> None:
        turns = Turns(1)
        turns.check_room()
        async with turns.turn("a"):
            turns.check_room()
            waiting = asyncio.create_task(anext(turns.turn("b").gen))
            await asyncio.sleep(0)
            with pytest.raises(InferenceBusyError):
                turns.check_room()
            waiting.cancel()
            await asyncio.wait([waiting])

    asyncio.run(ask())
