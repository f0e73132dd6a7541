"""A bucket of failed log-ins per client address, in this process's memory.

In memory on purpose: it dampens floods, and a flood must not become a flood of database writes. What has to hold
across replicas and restarts, the delay per account, is in Postgres.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

from auth_svc.domain.errors import LoginThrottled
from auth_svc.domain.throttle import Bucket

_MAX_ADDRESSES = 50_000
_IPV6_PREFIX = 64


class AddressLimiter:
    """Each address may fail `capacity` times at once and `per_second` times a second after that."""

    def __init__(self, capacity: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, address: str) -> None:
        """Takes a turn for an attempt.

        Raises:
            LoginThrottled: the address has no turn left.
        """
        now = self._clock()
        wait = self._bucket(address, now).take(now)
        if wait > 0:
            raise LoginThrottled(timedelta(seconds=wait))

    def give_back(self, address: str) -> None:
        """Returns the turn of an attempt that succeeded."""
        now = self._clock()
        self._bucket(address, now).give_back(now)

    def _bucket(self, address: str, now: float) -> Bucket:
        key = _network(address)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[key] = Bucket(self._capacity, self._per_second, self._capacity, now)
        self._buckets.move_to_end(key)
        return bucket

    def _make_room(self, now: float) -> None:
        while self._buckets:
            eldest = next(iter(self._buckets.values()))
            if len(self._buckets) < _MAX_ADDRESSES and not eldest.is_full(now):
                return
            self._buckets.popitem(last=False)


def _network(address: str) -> str:
    """One home has one IPv4 address, but 2^64 of IPv6: those count as one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed)
