"""A few long-lived children: a bad file costs its own child and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from meshkit.cancellation import cancel_all
from meshkit.sandbox.process import MAX_LINE_BYTES, START_SECONDS, ChildDied, ChildTooSlow, SandboxChild

REQUESTS_PER_CHILD = 500
"""After so many requests a child makes room for a fresh one: whatever leaked goes with it."""


class ChildPool:
    """Answers requests with at most `size` children at once.

    Args:
        size: Most children at once.
        command: What starts a child; the parent's process id is added.
        deadline_seconds: Wall-clock time for one request; then its child gets SIGKILL.
        environment, start_seconds, max_line_bytes: See `SandboxChild.start`.
        requests_per_child: How many requests a child answers before it is replaced.
    """

    def __init__(
        self,
        size: int,
        command: Sequence[str],
        *,
        deadline_seconds: float,
        environment: Mapping[str, str] | None = None,
        start_seconds: float = START_SECONDS,
        max_line_bytes: int = MAX_LINE_BYTES,
        requests_per_child: int = REQUESTS_PER_CHILD,
    ) -> None:
        self.size = size
        self._command = tuple(command)
        self._deadline = deadline_seconds
        self._environment = dict(environment or {})
        self._start_seconds = start_seconds
        self._max_line_bytes = max_line_bytes
        self._requests_per_child = requests_per_child
        self._slots = asyncio.Semaphore(size)
        self._idle: list[SandboxChild] = []
        self._busy: set[SandboxChild] = set()
        self._starting: set[asyncio.Task[SandboxChild]] = set()

    async def close(self) -> None:
        """Kills the children that have nothing to do: all of them, once nobody waits for an answer."""
        await cancel_all(*self._starting)
        while self._idle:
            await self._idle.pop().kill()

    def child_pids(self) -> list[int]:
        """Returns the process ids of the children."""
        return [child.pid for child in (*self._idle, *self._busy)]

    async def ask(
        self,
        request: dict[str, Any],
        deadline_seconds: float | None = None,
        *,
        otherwise: dict[str, Any] | None = None,
        silence_seconds: float | None = None,
    ) -> dict[str, Any]:
        """Returns a child's answer; one that dies over it is replaced, and another is asked once more.

        Args:
            request: What it shall do.
            deadline_seconds: Another time than the pool's.
            otherwise: What to ask the other child in its place. It is then asked as well if the first one falls silent,
                and both have one deadline together.
            silence_seconds: Longest time that the first child may show no sign of life; None: until the deadline.

        Raises:
            ChildTooSlow: there was none at the deadline.
            ChildDied: two children died over it.
        """
        async with self._slots:
            loop = asyncio.get_running_loop()
            seconds = deadline_seconds or self._deadline
            end = loop.time() + seconds
            try:
                child = await self._take()
                end = loop.time() + seconds  # what it takes to start a child is no time of the request
                return await self._ask_child(child, request, seconds, silence_seconds)
            except ChildDied as died:
                # Perhaps it was not the request: someone, or the kernel for want of memory, may have killed the child.
                structlog.get_logger().warning("sandbox.child_died", cause=str(died))
            except ChildTooSlow as slow:
                if otherwise is None or loop.time() > end - seconds / 10:
                    raise
                structlog.get_logger().warning("sandbox.child_hung", cause=str(slow))
            left = seconds if otherwise is None else max(0.0, end - loop.time())
            return await self._ask_child(await self._take(), otherwise or request, left)

    async def ask_once(self, request: dict[str, Any], deadline_seconds: float | None = None) -> dict[str, Any]:
        """Returns a child's answer; raises ChildTooSlow or ChildDied."""
        async with self._slots:
            return await self._ask_child(await self._take(), request, deadline_seconds or self._deadline)

    async def _ask_child(
        self, child: SandboxChild, request: dict[str, Any], seconds: float, silence_seconds: float | None = None
    ) -> dict[str, Any]:
        self._busy.add(child)
        try:
            answer = await child.ask(request, seconds, silence_seconds)
        finally:
            self._busy.discard(child)
        if child.requests < self._requests_per_child:
            self._idle.append(child)
        else:
            await child.kill()
        return answer

    async def _take(self) -> SandboxChild:
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
        starting = asyncio.create_task(self._start())
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Who waited has left; a child that takes seconds to start is ready for whoever asks next.
            self._starting.add(starting)
            starting.add_done_callback(self._keep)
            raise

    async def _start(self) -> SandboxChild:
        return await SandboxChild.start(
            self._command,
            environment=self._environment,
            start_seconds=self._start_seconds,
            max_line_bytes=self._max_line_bytes,
        )

    def _keep(self, started: asyncio.Task[SandboxChild]) -> None:
        self._starting.discard(started)
        if not started.cancelled() and started.exception() is None:
            self._idle.append(started.result())
