"""Requests on their way from the thread that hears them to the one that answers. Imports no training library.

Whose turn it is among users is decided before: see `usecases.take_turns`.
"""

from __future__ import annotations

import queue

from trainer_svc.qlora.messages import Generate


class RequestQueue:
    """Thread-safe. One thread takes and serves, in order; others put, cancel and close."""

    def __init__(self) -> None:
        # Its `put` may be called from a signal handler.
        self._waiting: queue.SimpleQueue[Generate | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        self._running = ""
        self._is_closed = False

    def put(self, request: Generate) -> None:
        self._waiting.put(request)

    def take(self) -> Generate | None:
        """The next request; waits for it. None once closed."""
        self._cancelled.discard(self._running)
        request = None if self._is_closed else self._waiting.get()
        if request is None or self._is_closed:
            return None
        self._running = request.request_id
        return request

    def cancel(self, request_id: str) -> None:
        """Has a request that waits or is answered end as soon as it can."""
        self._cancelled.add(request_id)

    def is_cancelled(self, request_id: str) -> bool:
        return self._is_closed or request_id in self._cancelled

    def close(self) -> None:
        """Cancels the running request and drops the others. Safe in a signal handler."""
        self._is_closed = True
        self._waiting.put(None)
