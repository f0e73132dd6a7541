"""Starts the package's real child processes as the trainer service does, and speaks with them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from trainer_svc.qlora.launch import child_environment
from trainer_svc.qlora.messages import Message, MessageSocket

M = TypeVar("M")
SECONDS = 240


class Child:
    """A running child and our end of its socket."""

    def __init__(self, process: subprocess.Popen[str], stream: socket.socket, errors: Path) -> None:
        self.process = process
        self.messages: list[Message] = []
        self._stream = stream
        self._socket = MessageSocket(stream)
        self._errors = errors
        stream.settimeout(SECONDS)

    def send(self, message: Message) -> None:
        self._socket.send(message)

    def read_until(self, wanted: Callable[[Message], bool]) -> Message:
        """The first message that is wanted; fails when the child ends before it."""
        while (message := self._socket.receive()) is not None:
            self.messages.append(message)
            if wanted(message):
                return message
        raise AssertionError(f"the child ended after {self.messages[-5:]}: {self.stderr}")

    def read_kind(self, kind: type[M]) -> M:
        message = self.read_until(lambda message: isinstance(message, kind))
        assert isinstance(message, kind)
        return message

    def finish(self) -> int:
        """Reads to the end; the exit code."""
        while (message := self._socket.receive()) is not None:
            self.messages.append(message)
        return self.process.wait(SECONDS)

    def hang_up(self) -> None:
        self._stream.close()

    @property
    def stderr(self) -> str:
        return self._errors.read_text()


@contextmanager
def started(command: Callable[[int], list[str]], errors: Path) -> Iterator[Child]:
    """`command` makes the command line from the descriptor that the child inherits."""
    ours, theirs = socket.socketpair()
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command(theirs.fileno()),
            env=child_environment(threads=1),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            text=True,
        )
    theirs.close()
    try:
        yield Child(process, ours, errors)
    finally:
        process.kill()
        process.wait(SECONDS)
        ours.close()
