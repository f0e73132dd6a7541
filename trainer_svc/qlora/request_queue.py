"""Waiting generation requests: clients take turns, each client's own in order. Imports no training library."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from trainer_svc.qlora.messages import Generate

MAX_WAITING = 256


class RequestQueue:
    """Thread-safe. One thread takes and serves; others put, cancel and close."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Clients in the order of their next turn.
        self._waiting: OrderedDict[str, deque[Generate]] = OrderedDict()
        self._running: str | None = None
        self._running_cancelled = threading.Event()
        self._draining = False

    def put(self, request: Generate) -> bool:
        """False when too many wait already, or the queue is closed."""
        with self._changed:
            if self._draining or sum(map(len, self._waiting.values())) >= MAX_WAITING:
                return False
            self._waiting.setdefault(request.client, deque()).append(request)
            self._changed.notify()
            return True

    def take(self) -> Generate | None:
        """The next request, now the running one; waits for it. None once closed and empty."""
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: bool(self._waiting) or self._draining)
            if not self._waiting:
                return None
            client, requests = self._waiting.popitem(last=False)
            request = requests.popleft()
            if requests:
                self._waiting[client] = requests
            self._running = request.request_id
            self._running_cancelled.clear()
            return request

    def cancel(self, request_id: str) -> bool:
        """True when the request was still waiting and is gone; one that runs is told by `running_cancelled`."""
        with self._changed:
            if self._running == request_id:
                self._running_cancelled.set()
                return False
            for client, requests in self._waiting.items():
                kept = deque(request for request in requests if request.request_id != request_id)
                if len(kept) < len(requests):
                    if kept:
                        self._waiting[client] = kept
                    else:
                        del self._waiting[client]
                    return True
            return False

    def running_cancelled(self) -> bool:
        """Whether the request taken last was cancelled."""
        return self._running_cancelled.is_set()

    def close(self, *, abandon: bool = False) -> None:
        """Takes no more requests; with `abandon` drops the waiting ones and cancels the running one."""
        with self._changed:
            self._draining = True
            if abandon:
                self._waiting.clear()
                self._running_cancelled.set()
            self._changed.notify_all()
