"""Prefixed, sortable identifiers (`usr_01JD…`): ULIDs in Crockford's base 32."""

from __future__ import annotations

import re
import secrets
import threading
import time

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
BODY_LENGTH = 26
_RANDOM_BITS = 80
_PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
"""Two digits at once."""
_PREFIX = re.compile(r"[a-z]{2,8}")
_ID = re.compile(rf"[a-z]{{2,8}}_[0-7][{ALPHABET}]{{{BODY_LENGTH - 1}}}")


class _Clock:
    """Makes the 128 bits of successive ids strictly increasing within this process, as the ULID specification asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next_value(self) -> int:
        value = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        with self._lock:
            # Within a millisecond, and after the clock stepped back, counting up from the last id keeps the order.
            if value <= self._last:
                value = self._last + 1
            self._last = value
        return value


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
