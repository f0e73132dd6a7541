"""What a child gives up before it touches a file from a stranger. Linux; elsewhere only the portable half works."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

from meshkit.sandbox.socket_filter import forbid_sockets

OPEN_FILES = 64
CPU_SLACK_SECONDS = 5

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


def die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent goes."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have gone before the request was made: then nobody would ever send the signal.
    if os.getppid() != parent:
        raise SystemExit(0)


def confine(*, address_space_bytes: int, may_start_threads: bool = False) -> bool:
    """Takes from this process what reading files does not need; returns whether it has lost the network.

    Call after all imports and while the process has one thread. Where neither a network namespace nor a
    filter of system calls is to be had, the child keeps the network, and is left with no credential, no address and
    demuxers that open no address.
    """
    has_no_network = _leave_network()
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Containers are seldom given the right to make namespaces.
    has_no_network = has_no_network or forbid_sockets()
    _limit(resource.RLIMIT_AS, address_space_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    if not may_start_threads:  # the kernel counts threads as processes
        _limit(resource.RLIMIT_NPROC, 0)
    return has_no_network


def allow_cpu(seconds: float, *, cores: int = 1) -> None:
    """Lets the process use that many more seconds of CPU, on each of its cores; then the kernel kills it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + cores * seconds) + CPU_SLACK_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _leave_network() -> bool:
    if sys.platform != "linux":
        return False
    # An ordinary user may make a network namespace only inside a user namespace of their own.
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    return bool(_libc().unshare(flags) == 0)


def _limit(kind: int, value: int) -> None:
    # A hard limit below ours is as good, and cannot be raised.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
