from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from meshkit.auth.principal import Caller, Principal
from meshkit.auth.revocations import Revocations, session_digest
from meshkit.auth.tokens import LEEWAY
from meshkit.rpc.failure import Failure
from meshkit.rpc.interceptors.session_bounds import BoundedStream
from meshkit.testing import assert_eventually


def caller(session_id: str, kind: Caller = Caller.USER, lives: float = 600) -> Principal:
    return Principal(kind, "usr_1", claims={"sid": session_id, "exp": int(time.time() + lives)})


class Auth:
    """What the auth service would answer."""

    def __init__(self) -> None:
        self.ended: set[str] = set()
        self.is_away = False

    async def fetch(self) -> frozenset[bytes]:
        if self.is_away:
            raise ConnectionError("away")
        return frozenset(map(session_digest, self.ended))


async def test_what_is_known_stays_known_while_the_list_cannot_be_had() -> None:
    auth = Auth()
    revocations = Revocations(auth.fetch)
    auth.is_away = True
    await revocations.refresh()
    assert not revocations.covers(caller("ses_1")), "nobody is refused for want of a list"
    auth.is_away, auth.ended = False, {"ses_1"}
    await revocations.refresh()
    auth.is_away = True
    await revocations.refresh()
    assert revocations.covers(caller("ses_1"))
    assert not revocations.covers(caller("ses_2"))
    assert not revocations.covers(caller("ses_1", Caller.WORKER)), "only users have sessions"


async def test_a_stream_ends_in_silence_and_in_the_middle_of_a_flood() -> None:
    auth = Auth()
    revocations = Revocations(auth.fetch)
    closed: list[str] = []

    async def silent() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            closed.append("silent")

    async def flood() -> AsyncIterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.append("flood")

    for source in (silent, flood):
        auth.ended = set()
        await revocations.refresh()
        stream = BoundedStream(caller("ses_1"), revocations, ends_with_token=False)
        messages = stream.responses(source())
        assert await anext(messages) == 0
        waiting = asyncio.ensure_future(drained(messages)) if source is silent else None
        await asyncio.sleep(0)
        auth.ended = {"ses_1"}
        await revocations.refresh()
        with pytest.raises(Failure, match="session"):
            await (waiting or drained(messages))
    assert closed == ["silent", "flood"]


async def test_only_a_watch_ends_with_its_token() -> None:
    async def silent() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 0

    async def one() -> AsyncIterator[int]:
        yield 0

    over = caller("ses_1", lives=-LEEWAY.total_seconds() - 1)
    revocations = Revocations(Auth().fetch)
    with pytest.raises(Failure) as ended:
        await drained(BoundedStream(over, revocations, ends_with_token=True).responses(silent()))
    assert ended.value.reason == "TOKEN_EXPIRED"
    download = BoundedStream(over, revocations, ends_with_token=False).responses(one())
    assert [message async for message in download] == [0]


async def test_an_upload_ends_with_its_session() -> None:
    auth = Auth()
    revocations = Revocations(auth.fetch)
    stream = BoundedStream(caller("ses_1"), revocations, ends_with_token=False)
    uploading = asyncio.ensure_future(stream.response(asyncio.Event().wait()))
    await asyncio.sleep(0)
    auth.ended = {"ses_1"}
    await revocations.refresh()
    with pytest.raises(Failure) as ended:
        await uploading
    assert ended.value.reason == "SESSION_ENDED"


async def test_news_while_a_stream_cleans_up_after_its_end_break_nothing() -> None:
    auth = Auth()
    revocations = Revocations(auth.fetch)
    may_close = asyncio.Event()

    async def slow_to_close() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            await may_close.wait()

    ended, expired = (BoundedStream(caller("ses_1"), revocations, ends_with_token=True) for _ in range(2))
    expired._expires_at = asyncio.get_running_loop().time() + 0.05
    waiting = []
    for stream in (ended, expired):
        messages = stream.responses(slow_to_close())
        assert await anext(messages) == 0
        waiting.append(asyncio.ensure_future(drained(messages)))
    await assert_eventually(lambda: expired._step is not None and expired._step.expired())
    auth.ended = {"ses_1"}
    await revocations.refresh()
    await assert_eventually(lambda: ended._step is not None and ended._step.expired())
    auth.ended = {"ses_1", "ses_2"}
    await revocations.refresh()
    may_close.set()
    for each in waiting:
        with pytest.raises(Failure, match="session"):
            await each


async def test_a_stream_of_a_session_that_ended_before_it_was_known_does_not_begin() -> None:
    auth = Auth()
    revocations = Revocations(auth.fetch)
    begun: list[str] = []

    async def one() -> AsyncIterator[int]:
        begun.append("responses")
        yield 0

    async def answer() -> None:
        begun.append("response")

    down, up = (BoundedStream(caller("ses_1"), revocations, ends_with_token=False) for _ in range(2))
    auth.ended = {"ses_1"}
    await revocations.refresh()
    with pytest.raises(Failure, match="session"):
        await drained(down.responses(one()))
    with pytest.raises(Failure, match="session"):
        await up.response(answer())
    assert begun == []


async def drained(messages: AsyncIterator[int]) -> None:
    async for _ in messages:
        pass
