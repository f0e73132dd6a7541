"""Works that take turns step by step on one model: each in a thread of its own, of which one runs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

PassOn = Callable[[], None]
"""Lets the others take their step; returns when it is this work's turn again."""


class _AbandonedError(Exception):
    """Another work failed: this one has nothing to go on for."""


class Lockstep(Generic[T]):
    """Runs works to their end, one step of each in turn.

    A work calls what it is given after every step. `resumed` is told the index of a work whenever that one begins or
    goes on, and `paused` when it lets the others through: what the works share is put in place there. Both run in
    the work's own thread, while no other work runs.
    """

    def __init__(self, resumed: Callable[[int], None], paused: Callable[[int], None]) -> None:
        self._resumed = resumed
        self._paused = paused
        self._changed = threading.Condition()
        self._running: list[int] = []
        self._turn = 0
        self._failed = False

    def run(self, works: Sequence[Callable[[PassOn], T]]) -> list[T]:
        """The results, in the order of the works. The first failure ends the others at their next step."""
        self._running, self._turn, self._failed = list(range(len(works))), 0, False
        with ThreadPoolExecutor(len(works), thread_name_prefix="lockstep") as threads:
            futures = [threads.submit(self._work, index, work) for index, work in enumerate(works)]
        failures = [error for future in futures if (error := future.exception()) is not None]
        for failure in sorted(failures, key=lambda error: isinstance(error, _AbandonedError)):
            raise failure
        return [future.result() for future in futures]

    def _work(self, index: int, work: Callable[[PassOn], T]) -> T:
        self._wait(index)
        is_done = False
        try:
            self._resumed(index)
            result = work(lambda: self._pass_on(index))
            is_done = True
            return result
        finally:
            with self._changed:
                self._failed = self._failed or not is_done
                following = self._next(index)
                self._running.remove(index)
                self._turn = following
                self._changed.notify_all()

    def _pass_on(self, index: int) -> None:
        if self._running == [index]:
            return
        self._paused(index)
        with self._changed:
            self._turn = self._next(index)
            self._changed.notify_all()
        self._wait(index)
        self._resumed(index)

    def _wait(self, index: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == index or self._failed)
            if self._failed:
                raise _AbandonedError

    def _next(self, index: int) -> int:
        """The work whose turn comes after that of `index`; `index` itself when it is the last one."""
        place = self._running.index(index)
        return self._running[(place + 1) % len(self._running)]
