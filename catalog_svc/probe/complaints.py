"""What FFmpeg says on standard error while it decodes. Runs only inside a probe child."""

from __future__ import annotations

import os

_READ_BYTES = 64 * 1024


class Complaints:
    """Standard error of this process, turned into a pipe that nobody has to empty.

    FFmpeg makes up for damaged pictures and decord hands them on like any other: that it complained is all the trace
    that damage leaves. The writing end never blocks, so that a file with much to complain of is not held up by a pipe
    that is full; what does not fit is lost, and the first words were enough.
    """

    def __init__(self) -> None:
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(writing, False)
        os.dup2(writing, 2)
        os.close(writing)

    def drain(self) -> bool:
        """Tells whether something was said since the last call."""
        try:
            said = os.read(self._reading, _READ_BYTES)
        except BlockingIOError:
            return False
        return bool(said)
