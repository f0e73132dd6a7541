"""`python -m trainer_svc.qlora.child`: the training child of one attempt. See `launch.training_command`.

Only light imports here: decode processes import this module again when they are spawned.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_svc.qlora.dataset_rows import load_samples
from trainer_svc.qlora.failures import as_failure, explained
from trainer_svc.qlora.launched_rank import LaunchedRank
from trainer_svc.qlora.messages import MessageSocket, StopReason
from trainer_svc.qlora.model_folder import check_model_folder
from trainer_svc.qlora.quick_imports import quick_imports
from trainer_svc.qlora.quiet import quiet_libraries
from trainer_svc.qlora.rank_group import join_launched, train_together
from trainer_svc.qlora.run_context import ORPHAN_EXIT_CODE, JobFolders, PipeRun, RunContext
from trainer_svc.qlora.spec import SpecError, TrainingSpec

if TYPE_CHECKING:
    from trainer_svc.qlora.model_loader import LoadBase


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer_svc.qlora.child", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="folder with spec.json, model/, dataset/ and out/")
    parser.add_argument("--message-fd", type=int, required=True, help="inherited descriptor of a stream socket")
    options = parser.parse_args(arguments)
    job: Path = options.job
    folders = JobFolders.of_job(job)
    folders.out.mkdir(parents=True, exist_ok=True)
    run = PipeRun(folders, MessageSocket.from_fd(options.message_fd))
    signal.signal(signal.SIGTERM, lambda *_: run.request_stop(StopReason.DRAIN))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        spec = read_spec(job / "spec.json").validate()
    except SpecError as error:
        run.report(as_failure(error))
        return 1
    code = run_training(run, spec)
    return ORPHAN_EXIT_CODE if run.orphaned else code


def run_training(
    run: RunContext, spec: TrainingSpec, load: LoadBase | None = None, launched: LaunchedRank | None = None
) -> int:
    """Trains; any error becomes a Failed message. Returns the exit code: 0, or 1 after Failed. `load`: in place of
    `load_base_model`; `launched`: which of several ranks this is, where others have started them."""
    quiet_libraries(spec.runtime.threads)
    try:
        # What is wrong with the owner's files is told at once, before seconds of imports.
        check_model_folder(run.folders.model)
        load_samples(run.folders.dataset)
        # Heavy imports only here: the environment must be quiet and offline before them.
        if launched is not None:
            join_launched(run, spec, launched)
        elif spec.runtime.devices > 1:
            train_together(run, spec)
        else:
            with quick_imports():
                from trainer_svc.qlora.trainer import train

            train(run, spec, load=load)
    # The edge of the process: whatever went wrong must reach the owner as a typed message.
    except Exception as error:
        run.report(explained(error, run.report))
        return 1
    return 0


def read_spec(file: Path) -> TrainingSpec:
    """The specification in a JSON file. Raises `SpecError`."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError("spec", f"{file.name} cannot be read: {error}", "give a JSON object") from error
    return TrainingSpec.from_dict(value)


if __name__ == "__main__":
    sys.exit(main())
