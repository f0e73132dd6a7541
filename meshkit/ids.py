"""Prefixed, sortable identifiers (`usr_01JD…`): ULIDs in Crockford's base 32."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
BODY_LENGTH = 26
_RANDOM_BITS = 80
_RANDOM_BYTES = _RANDOM_BITS // 8
_IDS_AT_ONCE = 64
_PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
"""Two digits at once."""
_PREFIX = re.compile(r"[a-z]{2,8}")
_ID = re.compile(rf"[a-z]{{2,8}}_[0-7][{ALPHABET}]{{{BODY_LENGTH - 1}}}")


class _Clock:
    """Makes the 128 bits of successive ids strictly increasing within this process, as the ULID specification asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self.forget_randomness()
        # Two processes must not draw from the same store.
        os.register_at_fork(after_in_child=self.forget_randomness)

    def forget_randomness(self) -> None:
        """Draws anew from the system next time."""
        self._random: Iterator[bytes] = iter(())

    def next_value(self) -> int:
        milliseconds = time.time_ns() // 1_000_000
        with self._lock:
            value = milliseconds << _RANDOM_BITS | int.from_bytes(self._random_bytes())
            # Within a millisecond, and after the clock stepped back, counting up from the last id keeps the order.
            if value <= self._last:
                value = self._last + 1
            self._last = value
        return value

    def _random_bytes(self) -> bytes:
        """Asks the system for the randomness of many ids at once: each time lets go of the interpreter."""
        drawn = next(self._random, None)
        if drawn is None:
            store = os.urandom(_RANDOM_BYTES * _IDS_AT_ONCE)
            pieces = [store[start : start + _RANDOM_BYTES] for start in range(0, len(store), _RANDOM_BYTES)]
            self._random = iter(pieces)
            drawn = next(self._random)
        return drawn


_clock = _Clock()


def new_id(prefix: str) -> str:
    """Returns a new id such as `usr_` + 26 characters that sort by time of creation.

    Raises:
        ValueError: the prefix is not 2 to 8 lower-case letters.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"id prefix {prefix!r} is not 2 to 8 lower-case letters")
    return f"{prefix}_{_encode(_clock.next_value())}"


def is_id(text: str, prefix: str) -> bool:
    """Tells whether `text` has the form of an id with this prefix (not whether it exists)."""
    return bool(_ID.fullmatch(text)) and text.startswith(f"{prefix}_")


def _encode(value: int) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(5 * (BODY_LENGTH - 2), -1, -10)])
