"""One read for all who want to know the same at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from typing import Any, Generic, TypeVar

AnswerT = TypeVar("AnswerT")
KeyT = TypeVar("KeyT", bound=Hashable)


class FreshRead(Generic[AnswerT]):
    """Reads what changes: an answer is never older than the question.

    Whoever asks while a read is under way, which may have begun too early, waits for the next one, together with all
    others who do.
    """

    def __init__(self, read: Callable[[], Awaitable[AnswerT]]) -> None:
        self._read = read
        self._current: asyncio.Task[AnswerT] | None = None
        self._next: asyncio.Task[AnswerT] | None = None

    async def __call__(self) -> AnswerT:
        """Returns what the read returns. Raises what it raises."""
        if self._current is None:
            self._current = _spawn(self._run(None))
            return await asyncio.shield(self._current)
        if self._next is None:
            self._next = _spawn(self._run(self._current))
        return await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task[AnswerT] | None) -> AnswerT:
        if before is not None:
            await asyncio.wait({before})
            self._current, self._next = self._next, None
        try:
            return await self._read()
        finally:
            # Somebody may wait behind this one by now; then that one is the current one in a moment.
            if self._next is None:
                self._current = None


class JoinedReads(Generic[KeyT, AnswerT]):
    """Reads what never changes: whoever asks for what is being read gets the same answer."""

    def __init__(self, read: Callable[[KeyT], Awaitable[AnswerT]]) -> None:
        self._read = read
        self._under_way: dict[KeyT, asyncio.Task[AnswerT]] = {}

    async def __call__(self, key: KeyT) -> AnswerT:
        """Returns what the read returns. Raises what it raises."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = _spawn(self._run(key))
        return await asyncio.shield(task)

    async def _run(self, key: KeyT) -> AnswerT:
        try:
            return await self._read(key)
        finally:
            del self._under_way[key]


def _spawn(work: Any) -> asyncio.Task[Any]:
    # A context of its own: the read belongs to nobody's rpc, whoever happened to ask first.
    task = asyncio.get_running_loop().create_task(work, context=Context())
    # When all who asked have gone nobody hears the error.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
