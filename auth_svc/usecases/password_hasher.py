"""argon2id, off the event loop and never more at once than memory and cores bear."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import argon2

from auth_svc import metrics
from auth_svc.domain.errors import PasswordQueueFull
from auth_svc.domain.password import normalise_password

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Argon2Parameters:
    """Cost of one hash (RFC 9106)."""

    memory_kib: int = 64 * 1024
    time_cost: int = 3
    parallelism: int = 4


class PasswordHasher:
    """Hashes and verifies passwords in `threads` threads; `max_waiting` more calls may wait for one."""

    def __init__(self, parameters: Argon2Parameters, *, threads: int, max_waiting: int) -> None:
        self._argon2 = argon2.PasswordHasher(
            time_cost=parameters.time_cost, memory_cost=parameters.memory_kib, parallelism=parameters.parallelism
        )
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._limit = threads + max_waiting
        self._pending = 0
        self._lock = threading.Lock()
        # Made with the same parameters as real ones, so that an unknown user costs the same time as a known one.
        self._nobody = self._argon2.hash(secrets.token_urlsafe(32))

    @property
    def pending(self) -> int:
        """How many calls are at work or wait."""
        return self._pending

    @property
    def limit(self) -> int:
        """How many may be."""
        return self._limit

    async def hash(self, password: str) -> str:
        """Returns the encoded hash of a password.

        Raises:
            PasswordQueueFull: too many calls wait already.
        """
        return await self._run(lambda: self._argon2.hash(normalise_password(password)))

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Tells whether a password made this hash; for None, a user who does not exist, False after the same work.

        Raises:
            PasswordQueueFull: too many calls wait already.
        """
        return await self._run(lambda: self._verify(encoded or self._nobody, password)) and encoded is not None

    def needs_rehash(self, encoded: str) -> bool:
        """Tells whether a hash was made with other parameters than new ones are."""
        return self._argon2.check_needs_rehash(encoded)

    def close(self) -> None:
        """Drops what waits and lets the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _verify(self, encoded: str, password: str) -> bool:
        try:
            return self._argon2.verify(encoded, normalise_password(password))
        except argon2.exceptions.VerifyMismatchError:
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        with self._lock:
            if self._pending >= self._limit:
                metrics.HASH_REFUSED.inc()
                raise PasswordQueueFull
            self._pending += 1
        future = self._executor.submit(work)
        # Not in a `finally` of this coroutine: a call that its client gave up still keeps its thread busy.
        future.add_done_callback(self._on_done)
        with metrics.HASH_SECONDS.time():
            return await asyncio.wrap_future(future)

    def _on_done(self, _: object) -> None:
        with self._lock:
            self._pending -= 1
