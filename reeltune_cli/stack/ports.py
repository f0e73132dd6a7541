"""Which port each process of the mesh listens on: free ones, kept from start to start."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Collection
from pathlib import Path

import psutil

from meshkit.embedded import free_ports
from reeltune_cli.stack.folder import write_private

LOOPBACK = "127.0.0.1"


class PortInUse(Exception):
    """The port that the edge was to have belongs to another process."""


def assign_ports(path: Path, names: Collection[str], *, edge: int | None, default_edge: int) -> dict[str, int]:
    """Returns a port for `edge` and for each name, remembered in `path` where they are still free.

    `edge` None takes the remembered port or else the default, 0 a free one; a port asked for is never replaced.

    Raises:
        PortInUse: the edge's port is taken; the text says by whom.
    """
    remembered = _remembered(path)
    wanted = edge if edge is not None else remembered.get("edge", default_edge)
    if wanted and not is_free(wanted):
        raise PortInUse(f"port {wanted} is already used by {user_of(wanted)}; choose another one with --port")
    chosen = {name: remembered[name] for name in names if name in remembered and is_free(remembered[name])}
    if wanted:
        chosen["edge"] = wanted
    missing = [name for name in ("edge", *names) if name not in chosen]
    chosen |= dict(zip(missing, free_ports(len(missing)), strict=True))
    if chosen != remembered:
        write_private(path, chosen)
    return chosen


def is_free(port: int) -> bool:
    """Tells whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a former server that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def user_of(port: int) -> str:
    """Names the process that listens on the port, as far as this user may know."""
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and getattr(connection.laddr, "port", None) == port
                and connection.pid
            ):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another process"


def _remembered(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    try:
        ports = {str(name): int(port) for name, port in json.loads(path.read_text("utf-8")).items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # ports are no data: others are as good
    return {name: port for name, port in ports.items() if 0 < port < 65536}
