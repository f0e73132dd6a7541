"""The same for each of many, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def each(work: Callable[[_Item], Awaitable[_Result]], items: Iterable[_Item]) -> list[_Result | Exception]:
    """Does the same for all side by side; returns what came of each, in order."""

    async def one(item: _Item) -> _Result | Exception:
        try:
            return await work(item)
        except Exception as error:  # its place in the answer tells it
            return error

    return await asyncio.gather(*(one(item) for item in items))
