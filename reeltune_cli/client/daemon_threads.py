"""Threads for which a process that ends does not wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


class DaemonThreads:
    """Some threads that make calls, in the order in which these are given.

    Unlike those of a ThreadPoolExecutor they end with the process, wherever they are: a call may be within one of the
    system's that nothing can break off.
    """

    def __init__(self, count: int, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._has_ended = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}_{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, call: Callable[[], _Result]) -> Future[_Result]:
        """Has a call made as soon as a thread is free, and returns its future; one that is cancelled is not begun.

        Raises:
            RuntimeError: the threads have been told to end.
        """
        if self._has_ended:
            raise RuntimeError("these threads have ended")
        future: Future[_Result] = Future()

        def settle() -> None:
            if self._has_ended:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = call()
            except BaseException as error:  # it belongs to whoever waits for the future
                future.set_exception(error)
            else:
                future.set_result(result)

        self._calls.put(settle)
        return future

    def end(self) -> None:
        """Lets each thread end after the call that it is in; calls not begun are cancelled. Waits for nothing."""
        self._has_ended = True
        for _ in self._threads:
            self._calls.put(None)

    def _run(self) -> None:
        while (settle := self._calls.get()) is not None:
            settle()
            del settle  # what it holds shall not stay until the next call
