"""`python -m trainer_svc.qlora.warm_child`: a training child that takes one job after the other.

Each `Train` names a job's folder; what follows is what `child` says of it. Only after a job was completed, and nothing
of it is left in the process, does it say `Idle` and wait for another; otherwise it ends. See `launch.warm_command`.

Only light imports here: decode processes import this module again when they are spawned.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_svc.qlora.child import read_spec, run_training
from trainer_svc.qlora.failures import as_failure
from trainer_svc.qlora.messages import (
    Completed,
    Idle,
    MessageSocket,
    StopReason,
    Train,
    TrainingUp,
)
from trainer_svc.qlora.run_context import ORPHAN_EXIT_CODE, JobFolders, PipeRun
from trainer_svc.qlora.spec import SpecError

if TYPE_CHECKING:
    from trainer_svc.qlora.base_keeper import BaseKeeper
    from trainer_svc.qlora.model_loader import BaseModel
    from trainer_svc.qlora.spec import QuantizationSpec

_MOST_JOBS = 50
"""Libraries that leak a little must not leak for ever."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer_svc.qlora.warm_child", description=__doc__)
    parser.add_argument("--message-fd", type=int, required=True, help="inherited descriptor of a stream socket")
    line = _Line(MessageSocket.from_fd(parser.parse_args(arguments).message_fd))
    signal.signal(signal.SIGTERM, lambda *_: line.drain())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bases = _Bases()
    for _ in range(_MOST_JOBS):
        run = line.next_run()
        code = _run_job(run, bases)
        if run.orphaned:
            return ORPHAN_EXIT_CODE
        if not run.is_completed or not bases.are_clean():
            return code
        line.say_idle()
    return 0


def _run_job(run: _WarmRun, bases: _Bases) -> int:
    run.folders.out.mkdir(parents=True, exist_ok=True)
    try:
        spec = read_spec(run.folders.out.parent / "spec.json").validate()
    except SpecError as error:
        run.report(as_failure(error))
        return 1
    return run_training(run, spec, bases.load)


class _Bases:
    """A `BaseKeeper`, from when the first base is wanted: importing it takes seconds."""

    def __init__(self) -> None:
        self._keeper: BaseKeeper | None = None

    def load(self, folder: Path, quantization: QuantizationSpec) -> BaseModel:
        from trainer_svc.qlora.base_keeper import BaseKeeper

        self._keeper = self._keeper or BaseKeeper()
        return self._keeper.load(folder, quantization)

    def are_clean(self) -> bool:
        return self._keeper is not None and self._keeper.is_clean()


class _WarmRun(PipeRun):
    """One of the jobs."""

    is_completed = False

    def report(self, message: TrainingUp) -> None:
        super().report(message)
        self.is_completed = self.is_completed or isinstance(message, Completed)


class _Line:
    """The socket to the trainer: jobs and orders come, and find the run that they are for."""

    def __init__(self, messages: MessageSocket) -> None:
        self._messages = messages
        self._jobs: queue.Queue[_WarmRun] = queue.Queue()
        self._run: _WarmRun | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def next_run(self) -> _WarmRun:
        """The next job, when it comes."""
        return self._jobs.get()

    def say_idle(self) -> None:
        """Tells that another job may come."""
        with self._lock:
            self._run = None
        with contextlib.suppress(OSError):  # gone: the reader ends this process
            self._messages.send(Idle())

    def drain(self) -> None:
        """Has the running job stopped; without one, ends the process."""
        if self._run is None:
            os._exit(0)
        self._run.request_stop(StopReason.DRAIN)

    def _read(self) -> None:
        try:
            while (order := self._messages.receive()) is not None:
                if isinstance(order, Train):
                    folders = JobFolders.of_job(Path(order.job))
                    self._run = _WarmRun(folders, self._messages, obeys=False)
                    self._jobs.put(self._run)
                elif self._run is not None:
                    self._run.take(order)
        finally:
            # Closed, reset or gone mad (MessageError): either way nobody steers this process any more.
            with self._lock:
                if self._run is None:
                    os._exit(ORPHAN_EXIT_CODE)
                self._run.abandon()


if __name__ == "__main__":
    sys.exit(main())
