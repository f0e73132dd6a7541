"""Batches that form by themselves: what arrives while a call is under way makes the next call, together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_Key = TypeVar("_Key", bound=Hashable)


class Batcher(Generic[_Item, _Answer]):
    """Answers each item by a call made for many.

    Nobody waits for company: an item that finds fewer than `calls_at_once` calls under way starts one at once.
    Under load the batches grow with the time that a call takes. A call begins after its items came, so that an answer
    is never older than its question; items are taken in the order in which they came.
    """

    def __init__(
        self,
        answer_all: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer | Exception]]],
        *,
        max_items: int,
        calls_at_once: int = 1,
    ) -> None:
        """`answer_all` returns for each item its answer, or the exception that is to be raised for it alone.

        What it raises is raised for all items of the call. It runs in a context of its own: neither the deadline nor
        the request id of whoever came first holds for the others.
        """
        self._answer_all = answer_all
        self._max_items = max_items
        self._free_calls = calls_at_once
        self._waiting: deque[tuple[_Item, asyncio.Future[_Answer]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    def ask(self, item: _Item) -> asyncio.Future[_Answer]:
        """Returns the answer to come. Cancelling it stops nothing but the wait."""
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._free_calls:
            self._free_calls -= 1
            call = asyncio.get_running_loop().create_task(self._call_until_nothing_waits(), context=Context())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return future

    async def _call_until_nothing_waits(self) -> None:
        try:
            while batch := self._take():
                await self._call(batch)
        finally:
            self._free_calls += 1

    def _take(self) -> list[tuple[_Item, asyncio.Future[_Answer]]]:
        batch: list[tuple[_Item, asyncio.Future[_Answer]]] = []
        while self._waiting and len(batch) < self._max_items:
            item, future = self._waiting.popleft()
            if not future.done():  # whoever asked has gone
                batch.append((item, future))
        return batch

    async def _call(self, batch: Sequence[tuple[_Item, asyncio.Future[_Answer]]]) -> None:
        futures = [future for _, future in batch]
        try:
            answers = await self._answer_all([item for item, _ in batch])
        except Exception as error:  # whatever it is, it belongs to those who wait
            answers = [error] * len(batch)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        _settle(futures, answers)


@dataclass(frozen=True, slots=True)
class _Remembered(Generic[_Answer]):
    """An answer, by the loop's clock."""

    answer: _Answer
    refresh_at: float
    expiry: asyncio.TimerHandle


class SharedCalls(Generic[_Key, _Answer]):
    """Answers equal questions that are open at the same time by one call, and may remember the answer for a moment.

    Without a memory an answer is never older than its question: who comes while a call is under way gets the next one.
    With one, whoever asks in the second half of an answer's time has the next one fetched and does not wait for it:
    where questions come without a pause nobody ever waits.
    """

    def __init__(self, call: Callable[[_Key], Awaitable[_Answer]], *, good_for_seconds: float = 0) -> None:
        """What `call` raises is raised for all who share it, and not remembered; it runs in a context of its own."""
        self._call = call
        self._good_for = good_for_seconds
        self._remembered: dict[_Key, _Remembered[_Answer]] = {}
        self._changes = 0
        self._waiting: dict[_Key, list[asyncio.Future[_Answer]]] = {}
        self._calls: dict[_Key, asyncio.Task[None]] = {}

    def ask(self, key: _Key) -> asyncio.Future[_Answer]:
        """Returns the answer to come. Cancelling it stops nothing but the wait."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answer] = loop.create_future()
        known = self._remembered.get(key)
        if known is None:
            self._waiting.setdefault(key, []).append(future)
        else:
            future.set_result(known.answer)
        if key not in self._calls and (known is None or loop.time() >= known.refresh_at):
            self._calls[key] = loop.create_task(self._call_for(key), context=Context())
        return future

    def forget(self) -> None:
        """Forgets all answers: something has changed."""
        for key in list(self._remembered):
            self._drop(key)
        self._changes += 1

    async def _call_for(self, key: _Key) -> None:
        try:
            while True:
                await self._answer(key, self._waiting.pop(key, []))
                if key in self._remembered:
                    # For who came meanwhile it is not too old either.
                    late = self._waiting.pop(key, [])
                    _settle(late, [self._remembered[key].answer] * len(late))
                if key not in self._waiting:
                    return
        finally:
            del self._calls[key]

    async def _answer(self, key: _Key, futures: Sequence[asyncio.Future[_Answer]]) -> None:
        loop = asyncio.get_running_loop()
        began, changes = loop.time(), self._changes
        answer: _Answer | Exception
        try:
            answer = await self._call(key)
        except Exception as error:  # whatever it is, it belongs to those who wait
            answer = error
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        _settle(futures, [answer] * len(futures))
        if not self._good_for or changes != self._changes:
            return
        # What was remembered is no better than what was told now, be it an error.
        self._drop(key)
        # From the beginning of the call: what it tells may have changed right after.
        good_until = began + self._good_for
        if not isinstance(answer, Exception) and good_until > loop.time():
            expiry = loop.call_at(good_until, self._remembered.pop, key, None)
            self._remembered[key] = _Remembered(answer, began + self._good_for / 2, expiry)

    def _drop(self, key: _Key) -> None:
        known = self._remembered.pop(key, None)
        if known is not None:
            known.expiry.cancel()


def _settle(futures: Sequence[asyncio.Future[_Answer]], answers: Sequence[_Answer | Exception]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if future.done():  # whoever asked has gone
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
