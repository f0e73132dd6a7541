"""One child process with a socket of typed messages, in a process group of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from trainer_svc.qlora.messages import Message, encode, read_message

RECORD = "child.json"
MEMORY_LIMIT = "REELTUNE_MEMORY_LIMIT_BYTES"
"""Read by the guard."""
_GUARD = Path(__file__).with_name("guard.py")
_TAIL_LINES = 40
_LINE_LIMIT = 64 * 1024
_EXIT_SECONDS = 10.0


class ChildProcess:
    """A running child. Whoever started it must `kill` it in the end, also after it exited by itself."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tail: Tail,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._tail = tail

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    @property
    def last_lines(self) -> list[str]:
        """The last lines it wrote to its standard output and error."""
        return list(self._tail.lines)

    def forget_lines(self) -> None:
        """Of a child that does one thing after the other: what it wrote belonged to the last."""
        self._tail.lines.clear()

    async def receive(self) -> Message | None:
        """The child's next message, or None once it has closed its end.

        Raises:
            MessageError: what came is no message.
        """
        return await read_message(self._reader)

    async def send(self, message: Message) -> None:
        """Sends an order; a child that is gone or reads nothing any more is found out by its silence, not here."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(encode(message))
            await self._writer.drain()

    async def wait_for_exit(self, seconds: float = _EXIT_SECONDS) -> int | None:
        """Its exit code (negative: the signal that ended it), or None if it still runs after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                code = await self._process.wait()
        except TimeoutError:
            return None
        await self._tail.finish()
        return code

    async def kill(self) -> None:
        """Ends the child and everything it started, at once. Repeating it does no harm."""
        # The group outlives its leader: decode processes may be left when the child itself has ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._tail.finish()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def memory_limit(size_bytes: int) -> dict[str, str]:
    """The variables that hold a child, and each process that it starts, to so much memory of its own.

    Beyond it an allocation fails, and the child can say so: nothing is killed. What is freed is given back at once,
    for a heap that keeps it would come to the limit several times as early.
    """
    return {MEMORY_LIMIT: str(size_bytes), "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


async def spawn_child(
    command: Callable[[int], Sequence[str]], *, folder: Path, environment: Mapping[str, str]
) -> ChildProcess:
    """Starts `command(message_fd)` in `folder`, and records it there for `reap_children`.

    The child is in its own session (a Ctrl-C meant for us does not reach it) and dies with this process.

    Raises:
        OSError: the program cannot be started.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        guarded = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), *command(theirs.fileno())]
        process = await asyncio.create_subprocess_exec(
            *guarded,
            cwd=folder,
            env=dict(environment),
            pass_fds=(theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_LIMIT,
            start_new_session=True,
        )
        _record(folder, process.pid)
        assert process.stdout is not None
        tail = Tail(process.stdout)
        reader, writer = await asyncio.open_connection(sock=ours.dup())
    return ChildProcess(process, reader, writer, tail)


class Tail:
    """Reads a stream to its end and keeps the last lines: a pipe that nobody reads would stop the child."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self.lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._stream = stream
        self._task = asyncio.create_task(self._read(), name="child-output")

    async def finish(self) -> None:
        """Waits a moment for the rest; a grandchild that holds the pipe open is not waited for."""
        await asyncio.wait({self._task}, timeout=1.0)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            try:
                line = await self._stream.readline()
            except ValueError:  # a line longer than the limit: asyncio has dropped it
                continue
            if not line:
                return
            self.lines.append(line.decode(errors="replace"))


def _record(folder: Path, pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        record = {"pid": pid, "start_time": psutil.Process(pid).create_time()}
        (folder / RECORD).write_text(json.dumps(record))
