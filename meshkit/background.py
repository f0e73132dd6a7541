"""Named tasks that live as long as their service: when one dies, the service stops."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

import structlog

_UNHEARD_SECONDS = 2.0
"""What ends in the background takes less than that to clear up after itself."""


class Background:
    """The background tasks of one service.

    A task that raises, or that returns although nobody asked it to, brings the process down: a service without its
    relay or sweeper looks healthy and is not.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], bool] = {}
        self._died = asyncio.Event()
        self.stopping = asyncio.Event()
        """Set when the service begins to stop: long streams watch it and end politely."""
        self.failed_task: str | None = None

    def start(
        self, name: str, work: Coroutine[Any, Any, Any], *, is_intake: bool = False, may_finish: bool = False
    ) -> None:
        """Runs `work` as the task `name`.

        Intake tasks (which take on new work) are cancelled before the server stops, the others after it.
        `may_finish` allows the task to return early.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = is_intake
        task.add_done_callback(lambda done: self._on_done(done, may_finish))

    async def wait_for_death(self) -> None:
        """Returns once a task has died."""
        await self._died.wait()

    async def stop_intake(self) -> None:
        """Cancels the intake tasks and waits for them."""
        self.stopping.set()
        await self._cancel([task for task, is_intake in self._tasks.items() if is_intake])

    async def stop(self) -> None:
        """Cancels all tasks and waits for them."""
        self.stopping.set()
        pending = set(self._tasks)
        while pending:
            await self._cancel(pending, timeout=_UNHEARD_SECONDS)
            # A library may have kept the cancellation to itself (see `meshkit.cancellation`): it is said again.
            pending = {task for task in pending if not task.done()}

    async def _cancel(self, tasks: Collection[asyncio.Task[Any]], *, timeout: float | None = None) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    def _on_done(self, task: asyncio.Task[Any], may_finish: bool) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None and (may_finish or self.stopping.is_set()):
            return
        structlog.get_logger().error("background.died", task=task.get_name(), exc_info=error)
        self.failed_task = self.failed_task or task.get_name()
        self._died.set()
