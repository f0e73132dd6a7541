"""A cancellation that a library swallows still ends whoever was cancelled."""

from __future__ import annotations

import asyncio

import pytest

from meshkit.background import Background
from meshkit.cancellation import heard


async def swallows(result: object) -> object:
    """Does what `asyncio.wait_for` did before Python 3.12: takes the cancellation and answers as if there was none."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if isinstance(result, Exception):
            raise result from None
    return result


@pytest.mark.parametrize("result", ["an answer", ValueError("a failure")], ids=["answer", "failure"])
async def test_a_swallowed_cancellation_is_heard(result: object) -> None:
    task = asyncio.create_task(heard(swallows(result)))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_was_not_cancelled_answers_and_fails_as_ever() -> None:
    async def fails() -> None:
        raise ValueError("no")

    assert await heard(asyncio.sleep(0, "an answer")) == "an answer"
    with pytest.raises(ValueError, match="no"):
        await heard(fails())


async def test_a_timeout_around_it_stays_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await heard(asyncio.Event().wait())


async def test_a_background_task_whose_library_swallows_cancellations_ends_all_the_same() -> None:
    async def work() -> None:
        await swallows("an answer")
        await asyncio.Event().wait()

    background = Background()
    background.start("work", work())
    await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await background.stop()
    assert background.failed_task is None
