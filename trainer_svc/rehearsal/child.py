"""`python -m trainer_svc.rehearsal.child`: the child process of one attempt at a rehearsal. See `launch`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from trainer_svc.qlora.failures import as_failure
from trainer_svc.qlora.messages import MessageSocket, StopReason
from trainer_svc.qlora.run_context import ORPHAN_EXIT_CODE, JobFolders, PipeRun
from trainer_svc.rehearsal.misbehavior import Mischief
from trainer_svc.rehearsal.rehearse import rehearse
from trainer_svc.rehearsal.spec import RehearsalSpec


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer_svc.rehearsal.child", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="folder with spec.json, model/, dataset/ and out/")
    parser.add_argument("--message-fd", type=int, required=True, help="inherited descriptor of a stream socket")
    options = parser.parse_args(arguments)
    job: Path = options.job
    trainer = os.getppid()
    run = PipeRun(JobFolders.of_job(job), MessageSocket.from_fd(options.message_fd))
    signal.signal(signal.SIGTERM, lambda *_: run.request_stop(StopReason.DRAIN))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        spec = RehearsalSpec.read(job / "spec.json")
        rehearse(run, spec, Mischief(run, options.message_fd, trainer))
    # The edge of the process: whatever went wrong must reach the owner as a typed message.
    except Exception as error:
        run.report(as_failure(error))
        return ORPHAN_EXIT_CODE if run.orphaned else 1
    return ORPHAN_EXIT_CODE if run.orphaned else 0


if __name__ == "__main__":
    sys.exit(main())
