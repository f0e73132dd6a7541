"""Whose turn it is, when many ask one model."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A bounded queue in which clients take turns, however many tickets each of them has waiting."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_client: OrderedDict[str, deque[T]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def is_full(self) -> bool:
        return self._length >= self._capacity

    def add(self, client: str, ticket: T) -> None:
        """Queues a ticket behind the client's own earlier ones. The caller checks `is_full` first."""
        self._by_client.setdefault(client, deque()).append(ticket)
        self._length += 1

    def next(self) -> T | None:
        """Takes the first ticket of the client whose turn it is; that client then goes to the end."""
        if not self._by_client:
            return None
        client, tickets = next(iter(self._by_client.items()))
        ticket = tickets.popleft()
        self._length -= 1
        del self._by_client[client]
        if tickets:
            self._by_client[client] = tickets
        return ticket

    def remove(self, client: str, ticket: T) -> bool:
        """Takes out a ticket whose owner left; False when it is not waiting any more."""
        tickets = self._by_client.get(client)
        if tickets is None or ticket not in tickets:
            return False
        tickets.remove(ticket)
        self._length -= 1
        if not tickets:
            del self._by_client[client]
        return True
