"""Background tasks: one that dies is noticed, and intake stops first."""

from __future__ import annotations

import asyncio

import pytest

from meshkit.background import Background
from meshkit.settings import ServiceSettings
from meshkit.testing import assert_eventually


async def _for_ever(order: list[str], name: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        order.append(name)


async def test_intake_stops_before_the_rest() -> None:
    background = Background()
    order: list[str] = []
    background.start("relay", _for_ever(order, "relay"))
    background.start("puller", _for_ever(order, "puller"), is_intake=True)
    await asyncio.sleep(0)
    await background.stop_intake()
    assert order == ["puller"]
    assert background.stopping.is_set()
    await background.stop()
    assert order == ["puller", "relay"]
    assert background.failed_task is None


@pytest.mark.parametrize("raises", [True, False])
async def test_a_task_that_ends_by_itself_is_a_death(raises: bool) -> None:
    async def work() -> None:
        if raises:
            raise RuntimeError("broken")

    background = Background()
    background.start("sweeper", work())
    async with asyncio.timeout(60):
        await background.wait_for_death()
    assert background.failed_task == "sweeper"
    await background.stop()


async def test_a_task_that_may_finish_is_none() -> None:
    background = Background()
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    background.start("warm-up", work(), may_finish=True)
    await done.wait()
    await asyncio.sleep(0)
    assert background.failed_task is None
    await background.stop()


async def test_assert_eventually_tells_the_last_answer() -> None:
    answers = iter([0, 0, 7])
    assert await assert_eventually(lambda: next(answers)) == 7
    with pytest.raises(AssertionError, match=r"still not so after 0\.1 s; last answer: 0"):
        await assert_eventually(lambda: 0, timeout=0.1)


def test_settings_are_frozen_and_read_from_their_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    class EchoSettings(ServiceSettings, env_prefix="ECHO_"):
        greeting: str = "hello"

    monkeypatch.setenv("ECHO_PORT", "4711")
    monkeypatch.setenv("ECHO_GREETING", "hi")
    monkeypatch.setenv("PORT", "1")
    settings = EchoSettings()
    assert (settings.port, settings.greeting, settings.host) == (4711, "hi", "127.0.0.1")
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
