"""Named places at which a process can be told to fail; they do nothing unless `REELTUNE_FAILPOINTS` names them.

`REELTUNE_FAILPOINTS="job.create.after_commit=kill:3 claim.after_commit=delay:0.5"` is read once, when this module is
imported. What follows the colon is the visit at which it happens, the first by default, and for a delay its seconds.

| action | what happens |
|---|---|
| `kill` | the process sends itself SIGKILL |
| `stop` | the process sends itself SIGSTOP; somebody else must send SIGCONT |
| `error` | `FailpointError` is raised, which nobody has foreseen |
| `disconnect` | every connection that the process has accepted is cut, so that no answer gets out |
| `delay` | every visit waits so long |
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

VARIABLE = "REELTUNE_FAILPOINTS"


class FailpointError(Exception):
    """The error of the action `error`."""


@dataclass(slots=True)
class _Armed:
    """What is to happen at one place."""

    action: str
    visit: int = 1
    seconds: float = 0.0
    visits: int = 0


def failpoints_from_text(text: str) -> Callable[[str], Awaitable[None]]:
    """Returns the function `failpoint` for a value of the environment variable.

    Raises:
        ValueError: the text cannot be understood; it says which part.
    """
    armed = dict(_parse(part) for part in text.split())
    return _visit_of(armed) if armed else _nothing


async def _nothing(name: str) -> None:
    """Nothing is armed: the place costs one empty call."""


def _visit_of(armed: Mapping[str, _Armed]) -> Callable[[str], Awaitable[None]]:
    async def visit(name: str) -> None:
        place = armed.get(name)
        if place is None:
            return
        place.visits += 1
        if place.action == "delay":
            await asyncio.sleep(place.seconds)
        elif place.visits == place.visit:
            # By hand and at once: whoever is killed next flushes no log.
            os.write(2, f"failpoint {name}: {place.action}\n".encode())
            _ACTIONS[place.action](name)

    return visit


def _parse(part: str) -> tuple[str, _Armed]:
    name, _, what = part.partition("=")
    action, _, argument = what.partition(":")
    try:
        if action == "delay":
            return name, _Armed(action, seconds=float(argument))
        if name and action in _ACTIONS:
            return name, _Armed(action, visit=int(argument or 1))
    except ValueError:
        pass
    actions = ", ".join(sorted((*_ACTIONS, "delay:SECONDS")))
    raise ValueError(f"{VARIABLE}: {part!r} is not NAME=ACTION[:VISIT] with one of the actions {actions}")


def _kill(_name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(_name: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _raise(name: str) -> None:
    raise FailpointError(f"failpoint {name}")


def _disconnect(_name: str) -> None:
    sockets = _tcp_sockets()
    try:
        served = {each.getsockname()[1] for each in sockets if _is_listening(each)}
        for each in sockets:
            if not _is_listening(each) and each.getsockname()[1] in served:
                _cut(each)
    finally:
        for each in sockets:
            each.close()


def _tcp_sockets() -> list[socket.socket]:
    """Returns duplicates of this process's TCP sockets, whoever opened them (gRPC's are opened in C)."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            duplicate = socket.socket(fileno=os.dup(descriptor))
        except OSError:  # closed meanwhile
            continue
        if duplicate.family in (socket.AF_INET, socket.AF_INET6) and duplicate.type == socket.SOCK_STREAM:
            found.append(duplicate)
        else:
            duplicate.close()
    return found


def _is_listening(each: socket.socket) -> bool:
    return bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _cut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was quicker
        each.shutdown(socket.SHUT_RDWR)


_ACTIONS: Mapping[str, Callable[[str], None]] = {
    "kill": _kill,
    "stop": _stop,
    "error": _raise,
    "disconnect": _disconnect,
}

failpoint = failpoints_from_text(os.environ.get(VARIABLE, ""))
"""`await failpoint("job.create.after_commit")`: a place at which this process may be told to fail."""
