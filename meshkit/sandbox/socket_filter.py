"""A filter of system calls that lets a process open no socket but local ones. Linux, on the machines that it knows.

It asks for no right (https://docs.kernel.org/userspace-api/seccomp_filter.html), and so works in containers, too, whose
own filters forbid the namespaces that would do the same.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_DENY = 0x00050000 | errno.EPERM

# Classic BPF (include/uapi/linux/bpf_common.h): load a word of the call's description, compare, return.
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data

_AF_UNIX = 1
_X32_CALLS = 0x40000000
_IO_URING_SETUP = 425  # its operations open sockets without the call of that name
_SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: its AUDIT_ARCH and the number of socket(2)."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_sockets() -> bool:
    """Has the kernel refuse (EPERM) sockets of every kind but AF_UNIX from now on; returns whether it does.

    Call after PR_SET_NO_NEW_PRIVS, without which only root may. It holds for this thread and all that it starts.
    """
    known = _SOCKET_CALLS.get(platform.machine())
    if sys.platform != "linux" or known is None:
        return False
    code = b"".join(struct.pack("=HBBI", *step) for step in _steps(*known))
    program = _Program(len(code) // 8, code)
    answer = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    return bool(answer == 0)


def _steps(architecture: int, socket_call: int) -> tuple[tuple[int, int, int, int], ...]:
    """Returns (operation, steps to skip if true, if false, operand)."""
    return (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 7, architecture),  # calls of another word size have other numbers: none of them
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 5, 0, _X32_CALLS),
        (_EQUAL, 4, 0, _IO_URING_SETUP),
        (_EQUAL, 0, 2, socket_call),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, _AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    )
