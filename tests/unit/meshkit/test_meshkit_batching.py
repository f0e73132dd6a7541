"""Calls that form batches by themselves, and calls that are shared."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from meshkit.batching import Batcher, SharedCalls
from meshkit.testing.eventually import assert_eventually

whose: ContextVar[str] = ContextVar("whose", default="nobody's")


class Doubler:
    """Doubles numbers, a batch at a time, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def double(self, numbers: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(numbers))
        await self.may_answer.wait()
        return [ValueError(number) if number < 0 else 2 * number for number in numbers]


async def test_what_comes_during_a_call_makes_the_next_one() -> None:
    doubler = Doubler()
    doubler.may_answer.clear()
    batcher = Batcher(doubler.double, max_items=3)
    first = batcher.ask(1)
    await asyncio.sleep(0)
    others = [batcher.ask(number) for number in (2, 3, 4, 5)]
    doubler.may_answer.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8, 10]
    assert doubler.batches == [[1], [2, 3, 4], [5]]


async def test_several_calls_may_be_under_way() -> None:
    doubler = Doubler()
    doubler.may_answer.clear()
    batcher = Batcher(doubler.double, max_items=10, calls_at_once=2)
    futures = []
    for number in (1, 2, 3, 4):
        futures.append(batcher.ask(number))
        await asyncio.sleep(0)
    doubler.may_answer.set()
    assert await asyncio.gather(*futures) == [2, 4, 6, 8]
    assert doubler.batches == [[1], [2], [3, 4]]


async def test_an_error_of_one_item_is_raised_for_it_alone() -> None:
    batcher = Batcher(Doubler().double, max_items=10)
    answers = await asyncio.gather(batcher.ask(1), batcher.ask(-1), batcher.ask(2), return_exceptions=True)
    assert [repr(answer) for answer in answers] == ["2", "ValueError(-1)", "4"]


async def test_an_error_of_the_call_is_raised_for_all_and_ends_nothing() -> None:
    calls = 0

    async def fail_once(numbers: Sequence[int]) -> Sequence[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("gone")
        return numbers

    batcher = Batcher(fail_once, max_items=10)
    answers = await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True)
    assert [repr(answer) for answer in answers] == ["OSError('gone')"] * 2
    assert await batcher.ask(3) == 3


async def test_who_goes_is_left_out_and_takes_nobody_along() -> None:
    doubler = Doubler()
    doubler.may_answer.clear()
    batcher = Batcher(doubler.double, max_items=10)
    first, second, third = (batcher.ask(number) for number in (1, 2, 3))
    first.cancel()
    await asyncio.sleep(0)
    second.cancel()
    doubler.may_answer.set()
    assert await third == 6
    assert doubler.batches == [[2, 3]]


async def test_a_call_belongs_to_nobody() -> None:
    async def tell(items: Sequence[None]) -> Sequence[str]:
        return [whose.get() for _ in items]

    async def tell_one(key: str) -> str:
        return whose.get()

    whose.set("mine")
    assert await Batcher(tell, max_items=1).ask(None) == "nobody's"
    assert await SharedCalls(tell_one).ask("key") == "nobody's"


async def test_equal_questions_share_a_call_that_begins_after_them() -> None:
    calls: list[str] = []
    may_answer = asyncio.Event()

    async def answer(key: str) -> int:
        calls.append(key)
        number = calls.count(key)
        await may_answer.wait()
        return number

    shared = SharedCalls(answer)
    early = [shared.ask("a"), shared.ask("a"), shared.ask("b")]
    await asyncio.sleep(0)
    late = [shared.ask("a"), shared.ask("a")]
    may_answer.set()
    assert await asyncio.gather(*early, *late) == [1, 1, 1, 2, 2]
    assert calls == ["a", "b", "a"]


async def test_an_answer_is_remembered_for_a_moment_only() -> None:
    calls = 0

    async def answer(key: str) -> int:
        nonlocal calls
        calls += 1
        return calls

    shared = SharedCalls(answer, good_for_seconds=0.05)
    began = asyncio.get_running_loop().time()
    assert [await shared.ask("a") for _ in range(3)] == [1, 1, 1]
    shared.forget()
    assert [await shared.ask("a") for _ in range(3)] == [2, 2, 2]
    await assert_eventually(lambda: _is_asked_again(shared))
    assert asyncio.get_running_loop().time() - began >= 0.05


async def _is_asked_again(shared: SharedCalls[str, int]) -> bool:
    return await shared.ask("a") == 3


async def test_who_asks_late_has_the_next_answer_fetched_and_does_not_wait() -> None:
    calls = 0

    async def answer(_: str) -> int:
        nonlocal calls
        calls += 1
        return calls

    shared = SharedCalls(answer, good_for_seconds=1)
    now = asyncio.get_running_loop().time
    began = now()
    assert await shared.ask("a") == 1
    told: list[int] = []

    async def has_changed() -> bool:
        is_known = now() < began + 1
        future = shared.ask("a")
        assert future.done() or not is_known
        told.append(await future)
        return told[-1] > 1

    await assert_eventually(has_changed)
    assert now() - began >= 0.5, "nothing is fetched while the answer is young"
    assert set(told[:-1]) == {1}


async def test_an_answer_that_cannot_be_fetched_anew_is_not_told_any_longer() -> None:
    calls = 0

    async def answer(_: str) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ValueError("gone")
        return calls

    shared = SharedCalls(answer, good_for_seconds=0.4)
    assert await shared.ask("a") == 1
    told: list[int | str] = []

    async def is_fetched_again() -> bool:
        try:
            told.append(await shared.ask("a"))
        except ValueError as error:  # the answer had expired meanwhile
            told.append(str(error))
        return calls >= 3

    await assert_eventually(is_fetched_again)
    assert told[-1] == 3
    assert set(told[:-1]) <= {1, "gone"}


async def test_an_error_is_shared_and_not_kept() -> None:
    answers = iter((OSError("gone"), "there"))

    async def answer(key: str) -> str:
        found = next(answers)
        if isinstance(found, OSError):
            raise found
        return found

    shared = SharedCalls(answer)
    both = await asyncio.gather(shared.ask("a"), shared.ask("a"), return_exceptions=True)
    assert [repr(one) for one in both] == ["OSError('gone')"] * 2
    assert await shared.ask("a") == "there"


async def test_a_cancelled_call_leaves_nobody_waiting() -> None:
    doubler = Doubler()
    doubler.may_answer.clear()
    batcher = Batcher(doubler.double, max_items=10)
    future = batcher.ask(1)
    await asyncio.sleep(0)
    (call,) = (task for task in asyncio.all_tasks() if "call_until" in repr(task))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
