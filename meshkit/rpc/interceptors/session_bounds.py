"""How long a user's stream may go on: as long as the session and, for streams without an end, the token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Any, TypeVar

import grpc
import structlog

from meshkit.auth.principal import Principal
from meshkit.auth.revocations import Revocations
from meshkit.auth.tokens import LEEWAY
from meshkit.rpc.failure import Failure

T = TypeVar("T")


class BoundedStream:
    """A stream under way; see `Revocations` for who ends it."""

    def __init__(self, principal: Principal, revocations: Revocations, *, ends_with_token: bool) -> None:
        self.principal = principal
        self._revocations = revocations
        self._expires_at: float | None = None
        if ends_with_token:
            left = float(principal.claims["exp"]) + LEEWAY.total_seconds() - time.time()
            self._expires_at = asyncio.get_running_loop().time() + left
        self._has_ended = False
        self._step: asyncio.Timeout | None = None

    def end(self) -> None:
        """Ends the stream at once; again, or while its token ends it already, changes nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        # A limit that has run out cannot be moved: its step is cleaning up, which may take a while.
        if self._step is not None and not self._step.expired():
            self._step.reschedule(asyncio.get_running_loop().time())

    async def responses(self, responses: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Passes the messages of a response stream on until the bound; raises Failure then."""
        iterator = aiter(responses)
        self._begin()
        try:
            while True:
                self._check()
                # The limit is set anew around each step, never across a `yield`: see `interceptors.deadline`.
                try:
                    message = await self._bounded(anext(iterator))
                except StopAsyncIteration:
                    return
                yield message
        finally:
            self._revocations.remove(self)
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()

    async def response(self, response: Awaitable[T]) -> T:
        """Awaits the answer to a request stream; raises Failure at the bound."""
        self._begin()
        try:
            if self._has_ended and asyncio.iscoroutine(response):
                response.close()
            self._check()
            return await self._bounded(response)
        finally:
            self._revocations.remove(self)

    def _begin(self) -> None:
        self._revocations.add(self)
        # The news may have come after the token was verified, when nobody knew of this stream yet.
        self._has_ended = self._revocations.covers(self.principal)

    def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._has_ended or (self._expires_at is not None and now >= self._expires_at):
            raise self._failure()

    def _failure(self) -> Failure:
        failure = session_ended() if self._has_ended else _token_expired()
        structlog.get_logger().info("auth.stream_ended", reason=failure.reason)
        return failure

    async def _bounded(self, step: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(self._expires_at) as limit:
                self._step = limit
                try:
                    return await step
                finally:
                    self._step = None
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._failure() from None


def session_ended() -> Failure:
    """Returns the refusal of a token whose session has ended."""
    return Failure(
        code=grpc.StatusCode.UNAUTHENTICATED,
        reason="SESSION_ENDED",
        message="the session of this credential has ended, by a log-out or because the user was barred; sign in again",
    )


def _token_expired() -> Failure:
    return Failure(
        code=grpc.StatusCode.UNAUTHENTICATED,
        reason="TOKEN_EXPIRED",
        message="the credential that the stream began with has expired; go on where it ended with a fresh one",
    )
