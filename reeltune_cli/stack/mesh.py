"""Starts the processes of the mesh side by side, keeps them alive, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import httpx

from meshkit.embedded import EnvoyServer, ServerNotReady
from reeltune_cli.stack.parts import STOP_ORDER, Part

MAX_DEATHS = 5
DEATH_WINDOW_SECONDS = 120.0
_FIRST_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 8.0
_EDGE_READY_SECONDS = 30.0
_POLL_SECONDS = 0.05
_JWKS_FETCHED = "jwt_authn.jwks_fetch_success"


class Status(enum.StrEnum):
    """Where a process is in its life, in words for the user."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DIED = "died"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Report(Protocol):
    """Tells the user what happens: a live table, or lines."""

    def changed(self, name: str, status: Status, detail: str = "") -> None: ...


class MeshFailed(Exception):
    """The mesh cannot start or go on; the text says which process and quotes its log."""


class Mesh:
    """The running processes."""

    def __init__(
        self,
        parts: Mapping[str, Part],
        report: Report,
        *,
        edge_url: str,
        ca_file: Path,
        on_ready: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`on_ready` is told the name of each process whenever it has started."""
        self._parts = parts
        self._report = report
        self._edge_url = edge_url
        self._ca_file = ca_file
        self._on_ready = on_ready
        self._ready = {name: asyncio.Event() for name in parts}

    async def start(self) -> None:
        """Starts everything, each process as soon as what it needs is ready, and returns once the edge lets callers in.

        Raises:
            MeshFailed: a process did not become ready.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for part in self._parts.values():
                    self._report.changed(part.name, Status.WAITING)
                    group.create_task(self._start_part(part))
        except ExceptionGroup as failures:
            raise MeshFailed(str(_first_of(failures, (ServerNotReady, OSError)))) from failures
        await self._wait_for_edge()

    async def keep_alive(self) -> None:
        """Watches the processes and starts again what dies; returns only by an exception.

        Raises:
            MeshFailed: a process died too often.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for part in self._parts.values():
                    group.create_task(self._keep_part_alive(part))
        except ExceptionGroup as failures:
            raise MeshFailed(str(_first_of(failures, MeshFailed))) from failures

    async def stop(self) -> None:
        """Stops everything in order; what does not stop in its time is killed. Takes less than 30 s."""
        for names in STOP_ORDER:
            parts = [self._parts[name] for name in names if name in self._parts]
            await asyncio.gather(*(self._stop_part(part) for part in parts))

    def kill(self) -> None:
        """Ends everything at once, as a power cut would."""
        for part in self._parts.values():
            if part.server.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(part.server.pid, signal.SIGKILL)

    async def _start_part(self, part: Part) -> None:
        for name in part.after:
            await self._ready[name].wait()
        started = time.monotonic()
        self._report.changed(part.name, Status.STARTING)
        await part.server.start()
        self._report.changed(part.name, Status.READY, f"{part.address}  {time.monotonic() - started:.1f} s")
        self._on_ready(part.name)
        self._ready[part.name].set()

    async def _wait_for_edge(self) -> None:
        """Waits until all health checks have passed and the edge has the keys that tokens are verified with."""
        edge = self._parts["edge"].server
        assert isinstance(edge, EnvoyServer)
        trust = ssl.create_default_context(cafile=str(self._ca_file))
        try:
            async with (
                asyncio.timeout(_EDGE_READY_SECONDS),
                httpx.AsyncClient(verify=trust, timeout=5, trust_env=False) as client,
            ):
                while not await _lets_callers_in(client, self._edge_url, edge.admin_url):  # noqa: ASYNC110 -- another process
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise MeshFailed(f"the edge did not find all services within {_EDGE_READY_SECONDS:.0f} s") from error

    async def _keep_part_alive(self, part: Part) -> None:
        deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        while True:
            code = await part.server.wait()
            deaths.append(time.monotonic())
            self._report.changed(part.name, Status.DIED, f"{_how(code)}; the end of its log:\n{part.server.log_tail()}")
            if len(deaths) == MAX_DEATHS and deaths[-1] - deaths[0] < DEATH_WINDOW_SECONDS:
                raise MeshFailed(
                    f"{part.name} died {MAX_DEATHS} times in {deaths[-1] - deaths[0]:.0f} s; see {part.server.log_path}"
                )
            await asyncio.sleep(min(_FIRST_BACKOFF_SECONDS * 2 ** (len(deaths) - 1), _MAX_BACKOFF_SECONDS))
            self._report.changed(part.name, Status.RESTARTING)
            # If it does not get ready it has ended again, which the next round counts.
            with contextlib.suppress(ServerNotReady):
                await part.server.start()
                self._report.changed(part.name, Status.READY, part.address)
                self._on_ready(part.name)

    async def _stop_part(self, part: Part) -> None:
        if part.server.pid is None:
            return
        self._report.changed(part.name, Status.STOPPING)
        try:
            await asyncio.wait_for(part.server.stop(), part.stop_seconds)
        except TimeoutError:
            await part.server.kill()
        self._report.changed(part.name, Status.STOPPED)


async def _lets_callers_in(client: httpx.AsyncClient, edge_url: str, admin_url: str) -> bool:
    try:
        health = await client.get(f"{edge_url}/healthz")
        keys = await client.get(f"{admin_url}/stats", params={"filter": _JWKS_FETCHED})
    except httpx.TransportError:
        return False
    return health.status_code == 200 and not keys.text.strip().endswith(": 0")


def _how(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _first_of(failures: ExceptionGroup[Exception], kinds: type[Exception] | tuple[type[Exception], ...]) -> Exception:
    """Returns the first failure if all are of these kinds; raises the group if one is not.

    An `except*` would do, but before Python 3.11.4 what it raises comes wrapped in a group.
    """
    expected, others = failures.split(kinds)
    if expected is None or others is not None:
        raise failures
    return expected.exceptions[0]
