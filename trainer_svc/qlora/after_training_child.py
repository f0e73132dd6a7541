"""`python -m trainer_svc.qlora.after_training_child`: the child of one attempt at an evaluation or a merge.

Only light imports here: decode processes import this module again when they are spawned.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from trainer_svc.qlora.after_training_spec import SOURCE, AfterTrainingSpec, EvaluationSpec
from trainer_svc.qlora.failures import explained
from trainer_svc.qlora.messages import MessageSocket, StopReason
from trainer_svc.qlora.model_folder import check_model_folder
from trainer_svc.qlora.quick_imports import quick_imports
from trainer_svc.qlora.quiet import quiet_libraries
from trainer_svc.qlora.run_context import ORPHAN_EXIT_CODE, JobFolders, PipeRun, RunContext


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer_svc.qlora.after_training_child", description=__doc__)
    parser.add_argument(
        "--job", type=Path, required=True, help="folder with spec.json, model/, dataset/, source/ and out/"
    )
    parser.add_argument("--message-fd", type=int, required=True, help="inherited descriptor of a stream socket")
    options = parser.parse_args(arguments)
    job: Path = options.job
    folders = JobFolders.of_job(job)
    folders.out.mkdir(parents=True, exist_ok=True)
    run = PipeRun(folders, MessageSocket.from_fd(options.message_fd))
    signal.signal(signal.SIGTERM, lambda *_: run.request_stop(StopReason.DRAIN))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = carry_out(run, job)
    return ORPHAN_EXIT_CODE if run.orphaned else code


def carry_out(run: RunContext, job: Path) -> int:
    """Does what the job says; any error becomes a Failed message. Returns the exit code: 0, or 1 after Failed."""
    try:
        spec = AfterTrainingSpec.read(job / "spec.json")
        quiet_libraries(spec.training.runtime.threads)
        check_model_folder(run.folders.model)
        # Heavy imports only here: the environment must be quiet and offline before them.
        if isinstance(spec.task, EvaluationSpec):
            with quick_imports():
                from trainer_svc.qlora.evaluate import evaluate

            evaluate(run, spec.training, spec.task, job / SOURCE)
        else:
            with quick_imports():
                from trainer_svc.qlora.merge import merge

            merge(run, spec.training, spec.task, job / SOURCE)
    # The edge of the process: whatever went wrong must reach the owner as a typed message.
    except Exception as error:
        run.report(explained(error, run.report))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
