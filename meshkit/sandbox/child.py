"""The child's side: gives up what it does not need, says so, and answers one request a line until its input ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from meshkit.sandbox.limits import allow_cpu, confine, die_with
from meshkit.sandbox.lines import decode, encode

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def serve(parent: int, prepare: Callable[[], Answer], *, address_space_bytes: int, may_start_threads: bool) -> None:
    """Answers requests until the input ends or the parent dies.

    Args:
        parent: The process id of the parent.
        prepare: Imports what is needed, while files may still be opened freely and memory is unlimited, and returns
            what answers a request. Standard output belongs to the answers: whatever a library prints is dropped.
        address_space_bytes: All memory that the process may map.
        may_start_threads: Whether the libraries need threads of their own.
    """
    die_with(parent)
    # Ctrl-C goes to the whole group; the parent decides when a child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = _take_stdout()
    answer = prepare()
    has_no_network = confine(address_space_bytes=address_space_bytes, may_start_threads=may_start_threads)
    _send(answers, {"ready": True, "has_no_network": has_no_network})
    for line in sys.stdin.buffer:
        request = decode(line)
        allow_cpu(float(request["seconds"]))
        _send(answers, answer(request))


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
