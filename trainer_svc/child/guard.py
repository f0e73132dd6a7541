"""Becomes the command given to it, after asking the kernel to kill it when its parent dies.

Run by path (`python -I -S guard.py PARENT_PID COMMAND…`), so it must import nothing but the standard library. A
separate step before exec, because code between fork and exec (`preexec_fn`) can deadlock in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PARENT_GONE = 3


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if limit := os.environ.pop("REELTUNE_MEMORY_LIMIT_BYTES", ""):
        # Memory of its own that it may write to; not all address space, of which PyTorch maps much more than it uses.
        # Passed on to whatever is started from here.
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    # The parent may have died before the request was in place.
    if os.getppid() != parent:
        sys.exit(_PARENT_GONE)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
