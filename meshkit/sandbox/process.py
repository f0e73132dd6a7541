"""One child, seen from the parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from meshkit.sandbox.lines import SIGN_OF_LIFE, BadAnswer, decode, encode

MAX_LINE_BYTES = 64 * 1024
START_SECONDS = 30.0
# Neither credentials nor addresses of the service reach a child: its environment is made anew.
_PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TZ", "VIRTUAL_ENV")


class ChildDied(Exception):
    """The child ended, or talked nonsense, while it worked on a file."""


class ChildTooSlow(Exception):
    """The child was killed at the deadline."""


class SandboxChild:
    """A running child that answers one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.requests = 0

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        start_seconds: float = START_SECONDS,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> SandboxChild:
        """Starts a child and waits until it is ready; raises ChildDied.

        Args:
            command: What starts it; the parent's process id is added.
            environment: Variables beside those that every child has.
            start_seconds: Longest time until it is ready.
            max_line_bytes: Longest answer that is read.
        """
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *command,
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**passed_on, "OMP_NUM_THREADS": "1", **(environment or {})},
            limit=max_line_bytes,
        )
        child = cls(process)
        try:
            async with asyncio.timeout(start_seconds):
                hello = await child._answer()
        except TimeoutError:
            await child.kill()
            raise ChildDied(f"not ready within {start_seconds:g} s") from None
        except BaseException:
            await child.kill()
            raise
        structlog.get_logger().debug("sandbox.started", pid=child.pid, has_no_network=hello.get("has_no_network"))
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def ask(
        self, request: dict[str, Any], seconds: float, silence_seconds: float | None = None
    ) -> dict[str, Any]:
        """Returns the child's answer.

        Args:
            request: What it shall do.
            seconds: Longest time for it.
            silence_seconds: Longest time without a sign of life; None: as long as for all of it.

        Raises:
            ChildTooSlow, ChildDied: there is none, and the child is dead.
        """
        self.requests += 1
        try:
            async with asyncio.timeout(seconds):
                await self._send(encode({**request, "seconds": seconds}))
                while True:
                    async with asyncio.timeout(silence_seconds):
                        answer = await self._answer()
                    if answer != SIGN_OF_LIFE:
                        return answer
        except TimeoutError:
            await self.kill()
            raise ChildTooSlow(f"no answer within {seconds:g} s, or no sign of life in time") from None
        except BaseException:
            # A cancelled request, too, leaves a child whose next answer would be to the wrong question.
            await self.kill()
            raise

    async def kill(self) -> None:
        """Ends the child with SIGKILL and waits until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            await self._process.stdin.drain()
        except ConnectionError as error:
            raise ChildDied("its input is closed") from error

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            line = await self._process.stdout.readuntil(b"\n")
            answer = decode(line)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ChildDied("it ended") from error
        except (asyncio.LimitOverrunError, BadAnswer) as error:
            raise ChildDied(f"it talks nonsense: {error}") from error
        if "broken" in answer:
            raise ChildDied(f"it broke down: {str(answer['broken'])[:300]!r}")
        return answer
