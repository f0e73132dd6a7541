"""Everything that can go wrong in a training child, done on purpose and within bounds that keep the machine well."""

from __future__ import annotations

import collections
import itertools
import math
import os
import resource
import signal
import time
from pathlib import Path
from typing import NoReturn

from trainer_svc.qlora.errors import BadClipError, ClipFault, NonFiniteLossError
from trainer_svc.qlora.messages import Log, StopReason
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.rehearsal.spec import MisbehaviorKind

SLOW_STOP_STEPS = 10
"""How many steps' time a slow stop takes."""
_MEMORY_BYTES = 128 << 20
"""More than this a rehearsal never takes to run out of memory."""
_BLOCK_BYTES = 16 << 20
_BREATH_SECONDS = 0.2
_NONSENSE = b"\xff\xff\xff\xffthis is no message"


class Mischief:
    """Misbehaves on order."""

    def __init__(self, run: RunContext, message_fd: int, trainer_pid: int) -> None:
        """`trainer_pid`: the parent process as it was at the start."""
        self._run = run
        self._message_fd = message_fd
        self._trainer_pid = trainer_pid
        self._is_deaf = False
        self._stops_slowly = False

    @property
    def is_slow_to_stop(self) -> bool:
        return self._stops_slowly

    def stop_requested(self) -> StopReason | None:
        """What the run has been ordered, as far as it listens."""
        return None if self._is_deaf else self._run.stop_requested()

    def commit(self, kind: MisbehaviorKind, step: int) -> None:
        """Does it; returns only if the run goes on afterwards."""
        match kind:
            case MisbehaviorKind.HANG:
                self._hang()
            case MisbehaviorKind.SPIN:
                _spin()
            case MisbehaviorKind.CRASH:
                _crash()
            case MisbehaviorKind.EXIT:
                os._exit(0)
            case MisbehaviorKind.KILL_WORKER:
                self._kill_worker()
            case MisbehaviorKind.IGNORE_ORDERS:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self._is_deaf = True
            case MisbehaviorKind.OUT_OF_MEMORY:
                _eat_memory()
            case MisbehaviorKind.NON_FINITE_LOSS:
                raise NonFiniteLossError(step, math.nan, math.nan, ["rehearsed"])
            case MisbehaviorKind.BAD_DATA:
                raise BadClipError("rehearsed.mp4", ClipFault.UNDECODABLE, "rehearsed")
            case MisbehaviorKind.NONSENSE:
                self._speak_nonsense()
            case MisbehaviorKind.SLOW_STOP:
                self._stops_slowly = True

    def _hang(self) -> NoReturn:
        """Breathes, and gets nowhere."""
        while True:
            self._run.report(Log("debug", "still here"))
            time.sleep(_BREATH_SECONDS)

    def _kill_worker(self) -> None:
        # Once the trainer is gone its number may be another's: only the parent that started us is killed.
        if os.getppid() == self._trainer_pid and self._trainer_pid > 1:
            os.kill(self._trainer_pid, signal.SIGKILL)
        self._hang()

    def _speak_nonsense(self) -> NoReturn:
        os.write(self._message_fd, _NONSENSE)
        self._hang()


def _spin() -> NoReturn:
    """Never leaves native code: no other thread runs, and no handler of a signal."""
    collections.deque(itertools.repeat(None), maxlen=0)
    raise AssertionError("an endless loop has ended")


def _crash() -> NoReturn:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("a segmentation fault was survived")


def _eat_memory() -> NoReturn:
    """Allocates under a limit of its own until nothing is left of it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    blocks = []
    while True:
        blocks.append(b"\x01" * _BLOCK_BYTES)
