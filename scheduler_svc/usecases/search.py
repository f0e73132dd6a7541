"""Counting tokens and searching what fits take up to seconds: they are done beside the event loop, and few at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

_Given = TypeVarTuple("_Given")
_Found = TypeVar("_Found")

# Pure Python all of it: more of them at once would only slow down the event loop.
_SEARCHES = ThreadPoolExecutor(max_workers=2, thread_name_prefix="search")
# No number of estimates that are only asked for is to keep jobs from being accepted.
_SUBMISSIONS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="submission")


async def search(find: Callable[[*_Given], _Found], *arguments: *_Given) -> _Found:
    """Returns what `find` does, done by one of two threads; further ones wait for their turn."""
    return await asyncio.get_running_loop().run_in_executor(_SEARCHES, find, *arguments)


async def search_for_submission(find: Callable[[*_Given], _Found], *arguments: *_Given) -> _Found:
    """As `search`, by two threads of their own."""
    return await asyncio.get_running_loop().run_in_executor(_SUBMISSIONS, find, *arguments)
