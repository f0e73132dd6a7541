"""Free TCP ports on loopback."""

from __future__ import annotations

import contextlib
import socket


def free_port() -> int:
    """Returns a TCP port that nobody on 127.0.0.1 uses at the moment."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Returns different free ports; held open together until all are known, so that none comes twice."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [int(opened.getsockname()[1]) for opened in sockets]
