"""The child's side: gives up what it does not need, says so, and answers one request a line until its input ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from meshkit.sandbox.limits import allow_cpu, confine, die_with
from meshkit.sandbox.lines import SIGN_OF_LIFE, decode, encode

Answer = Callable[[dict[str, Any]], dict[str, Any]]
_BEAT_SECONDS = 1.0


class Heart:
    """Shows the parent that a long request goes on, at most once a second."""

    def __init__(self) -> None:
        self._answers: BinaryIO | None = None
        self._beat_at = 0.0

    def attach(self, answers: BinaryIO) -> None:
        """Names the pipe to the parent; before, no beat leaves the process."""
        self._answers = answers

    def beat(self) -> None:
        """Cheap enough to call for every frame."""
        now = time.monotonic()
        if self._answers is not None and now - self._beat_at >= _BEAT_SECONDS:
            self._beat_at = now
            _send(self._answers, SIGN_OF_LIFE)


def serve(
    parent: int,
    prepare: Callable[[], Answer],
    *,
    address_space_bytes: int,
    may_start_threads: bool,
    heart: Heart | None = None,
) -> None:
    """Answers requests until the input ends or the parent dies.

    Args:
        parent: The process id of the parent.
        prepare: Imports what is needed, while files may still be opened freely and memory is unlimited, and returns
            what answers a request. Standard output belongs to the answers: whatever a library prints is dropped.
        address_space_bytes: All memory that the process may map.
        may_start_threads: Whether the libraries need threads of their own.
        heart: What beats while a request is answered.
    """
    die_with(parent)
    # Ctrl-C goes to the whole group; the parent decides when a child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = _take_stdout()
    answer = prepare()
    if heart is not None:
        heart.attach(answers)
    has_no_network = confine(address_space_bytes=address_space_bytes, may_start_threads=may_start_threads)
    _send(answers, {"ready": True, "has_no_network": has_no_network})
    for line in sys.stdin.buffer:
        request = decode(line)
        allow_cpu(float(request["seconds"]), cores=2 if may_start_threads else 1)
        try:
            reply = answer(request)
        except Exception as error:  # said to the parent, as nobody reads this process's standard error
            _send(answers, {"broken": repr(error)[:300]})
            raise SystemExit(1) from error
        _send(answers, reply)


def _take_stdout() -> BinaryIO:
    """Returns the pipe to the parent, and points standard output elsewhere: no library may write into the answers."""
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    return answers


def _send(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(encode(message))
    answers.flush()
