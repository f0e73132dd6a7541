"""Sessions that have ended before their access tokens: known to every service within seconds."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Set
from typing import NoReturn, Protocol

import structlog

from meshkit.auth.principal import Caller, Principal

RevocationFetch = Callable[[], Awaitable[Set[bytes]]]
"""Fetches the digests of the sessions that have ended lately; see `session_digest`."""

_FETCH_SECONDS = 10.0
_DIGEST_BYTES = 16


def session_digest(session_id: str) -> bytes:
    """Returns what a session is known by in the list: whoever reads it learns no id from it."""
    return hashlib.sha256(session_id.encode()).digest()[:_DIGEST_BYTES]


class OpenStream(Protocol):
    """A stream under way, of one caller."""

    principal: Principal

    def end(self) -> None:
        """The caller's session has ended: the stream must, too."""
        ...


class Revocations:
    """The list as it was fetched last, and the open streams that it may end.

    While it cannot be fetched, what was known stays known and no token is refused that would not have been: tokens end
    by themselves, and an auth service that is down must not sign everybody out.
    """

    def __init__(self, fetch: RevocationFetch, *, poll_seconds: float = 15.0) -> None:
        self._fetch = fetch
        self._poll_seconds = poll_seconds
        self._ended: Set[bytes] = frozenset()
        self._streams: set[OpenStream] = set()
        self._failed = False
        self.fetch_time = 0.0
        """When the list was last fetched, in seconds since the epoch; 0 before."""

    def covers(self, principal: Principal) -> bool:
        """Tells whether the caller's session is known to have ended. Only users have one."""
        if principal.kind is not Caller.USER or not self._ended:
            return False
        session_id = principal.claims.get("sid")
        return isinstance(session_id, str) and session_digest(session_id) in self._ended

    def add(self, stream: OpenStream) -> None:
        """Ends the stream when its caller's session is found to have ended."""
        self._streams.add(stream)

    def remove(self, stream: OpenStream) -> None:
        """Forgets a stream that has ended."""
        self._streams.discard(stream)

    async def follow(self) -> NoReturn:
        """Fetches the list again and again."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._poll_seconds)

    async def refresh(self) -> None:
        """Fetches the list once, and ends the streams of sessions that are in it."""
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                ended = frozenset(await self._fetch())
        except Exception as error:  # whatever the transport raises, what is known stays known
            if not self._failed:
                structlog.get_logger().warning("revocations.fetch_failed", error=repr(error), known=len(self._ended))
            self._failed = True
            return
        self._failed = False
        self.fetch_time = time.time()
        is_news = not ended <= self._ended
        self._ended = ended
        if is_news:
            for stream in [stream for stream in self._streams if self.covers(stream.principal)]:
                stream.end()


async def _nothing() -> frozenset[bytes]:
    return frozenset()


NO_REVOCATIONS = Revocations(_nothing)
"""For servers that no user calls, and for tests: nothing is ever revoked."""
