"""Third step: no call runs for ever. Python's gRPC neither sets nor propagates deadlines by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_interceptor.server import AsyncServerInterceptor

from meshkit.rpc.failure import Failure
from meshkit.rpc.interceptors.step import Handler
from meshkit.rpc.request_context import RpcContext, set_deadline
from meshkit.rpc.status import abort_with

_LOOK_SECONDS = 1.0
"""How often the limits that are still far are looked at."""


@dataclass(frozen=True, slots=True)
class DeadlineLimits:
    """The longest time that an rpc may take, whatever its client asked for."""

    unary_seconds: float = 30
    stream_seconds: float = 600
    long_rpcs: frozenset[str] = frozenset()
    """Full paths of streams that may live as long as their clients want: watches, uploads, attempts, downloads."""


class DeadlineInterceptor(AsyncServerInterceptor):
    """Caps the time of an rpc and makes what remains known to the calls it makes itself."""

    def __init__(self, limits: DeadlineLimits) -> None:
        self._limits = limits
        self._alarms = _Alarms()

    async def intercept(self, method: Handler, request_or_iterator: Any, context: RpcContext, method_name: str) -> Any:
        response = method(request_or_iterator, context)
        is_stream = hasattr(response, "__aiter__")
        seconds = self._seconds(context, method_name, is_stream or hasattr(request_or_iterator, "__aiter__"))
        set_deadline(seconds)
        if seconds is None:
            return response if is_stream else await response
        expires_at = asyncio.get_running_loop().time() + seconds
        if is_stream:
            return _until(expires_at, response, context, seconds)
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._alarms.set(limit, expires_at)
                return await response
        except TimeoutError:
            if not limit.expired():
                raise
            await abort_with(context, _too_slow(seconds))
        finally:
            self._alarms.drop(limit)

    def _seconds(self, context: RpcContext, method_name: str, is_stream: bool) -> float | None:
        asked = context.time_remaining()
        if is_stream and method_name in self._limits.long_rpcs:
            return asked
        cap = self._limits.stream_seconds if is_stream else self._limits.unary_seconds
        return cap if asked is None else min(asked, cap)


class _Alarms:
    """Sets the timers of time limits, those that come soon at once and the others when they come near.

    Nearly all calls are over long before: a timer that is made and cancelled costs as much as the rest of this step.
    """

    def __init__(self) -> None:
        self._far: dict[asyncio.Timeout, float] = {}
        self._look: asyncio.TimerHandle | None = None

    def set(self, limit: asyncio.Timeout, expires_at: float) -> None:
        """Makes an entered limit end at a time of the loop's clock."""
        loop = asyncio.get_running_loop()
        if expires_at <= loop.time() + 2 * _LOOK_SECONDS:
            limit.reschedule(expires_at)
            return
        self._far[limit] = expires_at
        if self._look is None:
            self._look = loop.call_later(_LOOK_SECONDS, self._set_near, loop)

    def drop(self, limit: asyncio.Timeout) -> None:
        """Forgets a limit that has been left."""
        self._far.pop(limit, None)

    def _set_near(self, loop: asyncio.AbstractEventLoop) -> None:
        near = loop.time() + 2 * _LOOK_SECONDS
        for limit, expires_at in list(self._far.items()):
            if expires_at <= near:
                del self._far[limit]
                limit.reschedule(expires_at)
        self._look = loop.call_later(_LOOK_SECONDS, self._set_near, loop) if self._far else None


async def _until(
    expires_at: float, responses: AsyncIterator[Any], context: RpcContext, seconds: float
) -> AsyncIterator[Any]:
    iterator = aiter(responses)
    while True:
        # The limit is set anew around each step: a timeout must not stay open across a `yield`, where it would
        # cancel whatever the task is doing outside this generator.
        limit = asyncio.timeout_at(expires_at)
        try:
            async with limit:
                message = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            if not limit.expired():
                raise
            await abort_with(context, _too_slow(seconds))
        yield message


def _too_slow(seconds: float) -> Failure:
    return Failure(
        code=grpc.StatusCode.DEADLINE_EXCEEDED,
        reason="DEADLINE_EXCEEDED",
        message=f"the call did not finish within {seconds:.3g} s; ask for less, or try again later",
        metadata={"seconds": f"{seconds:.3f}"},
    )
