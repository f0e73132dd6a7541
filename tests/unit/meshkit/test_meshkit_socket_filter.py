"""The filter that takes the network from children where no namespace is to be had: tried in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="NOT TESTED: another machine"
)
_FILTERED = """
import ctypes, errno, socket, subprocess, sys, threading
from meshkit.sandbox.socket_filter import forbid_sockets
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
assert forbid_sockets()
def is_refused(act):
    try:
        act()
    except OSError as error:
        return error.errno == errno.EPERM
    return False
"""


def _try(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FILTERED + script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"])
def test_no_socket_leads_out(family: str) -> None:
    _try(f"assert is_refused(lambda: socket.socket(socket.{family}, socket.SOCK_DGRAM))")


def test_local_sockets_and_all_else_go_on() -> None:
    _try("socket.socket(socket.AF_UNIX); socket.socketpair(); open('/dev/null').read(); threading.Thread().start()")


def test_threads_and_children_have_it_too() -> None:
    _try(
        "found = []\n"
        "worker = threading.Thread(target=lambda: found.append(is_refused(socket.socket)))\n"
        "worker.start(); worker.join(); assert found == [True]\n"
        "child = 'import socket; socket.socket()'\n"
        "assert b'PermissionError' in subprocess.run([sys.executable, '-c', child], capture_output=True).stderr"
    )


def test_rings_that_could_open_sockets_are_refused() -> None:
    _try(
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.syscall(425, 1, None) == -1 and ctypes.get_errno() == errno.EPERM"
    )


_CONFINED = """
import socket
from meshkit.sandbox import limits
limits._leave_network = lambda: False
assert limits.confine(address_space_bytes=2**32)
try:
    socket.socket()
except PermissionError:
    raise SystemExit(0)
raise SystemExit("it has a socket")
"""


def test_a_child_that_may_make_no_namespace_has_no_network() -> None:
    done = subprocess.run([sys.executable, "-c", _CONFINED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
