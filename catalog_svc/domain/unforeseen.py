"""How often background work is tried again that fails by what nobody has foreseen: not for ever. Pure."""

from __future__ import annotations

MAX_FAILURES = 6
"""How often in a row, with no progress meanwhile, work is tried that fails by what nobody has foreseen."""
RETRY_SECONDS = 5.0
"""Pause after something was away for the moment, and after the first failure."""
_LONGEST_PAUSE_SECONDS = 300.0
_LEAST_PAUSE_SECONDS = 1.0
"""After work could not even be given up."""


def pause_after(failures: int, first_seconds: float = RETRY_SECONDS) -> float:
    """Returns for how many seconds work rests that has failed once more.

    Args:
        failures: How often it had failed before.
        first_seconds: The pause after the first failure; it doubles with each.
    """
    if failures + 1 == MAX_FAILURES:
        return 0.0  # what is left is to give it up; when that fails, too, there is a pause again
    longest: float = min(_LONGEST_PAUSE_SECONDS, first_seconds * 2 ** min(failures, MAX_FAILURES))
    return longest if failures < MAX_FAILURES else max(_LEAST_PAUSE_SECONDS, longest)
