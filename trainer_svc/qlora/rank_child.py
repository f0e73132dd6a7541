"""`python -m trainer_svc.qlora.rank_child`: one of the further processes of a run on several devices. See `rank_group`.

Only light imports here: decode processes import this module again when they are spawned.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from trainer_svc.qlora.failures import as_failure, stack_of
from trainer_svc.qlora.messages import Failed, FailureReason, Log, MessageSocket, StopReason, TrainingUp
from trainer_svc.qlora.quiet import quiet_libraries
from trainer_svc.qlora.rank_group import join_rank
from trainer_svc.qlora.run_context import ORPHAN_EXIT_CODE, JobFolders

_OTHERS_FIRST_SECONDS = 8.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer_svc.qlora.rank_child", description=__doc__)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--group", type=Path, required=True, help="folder that the first rank has made")
    parser.add_argument("--message-fd", type=int, required=True, help="inherited descriptor of a stream socket")
    for name in ("model", "dataset", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder that runs share")
    options = parser.parse_args(arguments)
    # A Ctrl-C reaches every process of a terminal; the first rank says what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folders = JobFolders(options.model, options.dataset, options.out, options.cache)
    run = _RankRun(folders, MessageSocket.from_fd(options.message_fd))
    quiet_libraries()
    try:
        join_rank(run, options.group, options.rank)
    # The edge of the process: whatever went wrong must reach the owner as a typed message.
    except Exception as error:
        failure = as_failure(error)
        if failure.reason in (FailureReason.INTERNAL, FailureReason.RANK_LOST):
            # Mostly the echo of another rank's trouble: the first ends us as soon as it knows of that.
            threading.Event().wait(_OTHERS_FIRST_SECONDS)
            run.report(stack_of(error))
        run.report(failure)
        return 1
    return 0


class _RankRun:
    """What a rank tells the first one. It takes no orders but by meetings, and ends with the first."""

    def __init__(self, folders: JobFolders, messages: MessageSocket) -> None:
        self.folders = folders
        self._messages = messages
        self._sending = threading.Lock()
        threading.Thread(target=self._end_with_the_first, name="first-rank", daemon=True).start()

    def report(self, message: TrainingUp) -> None:
        if isinstance(message, Failed | Log):
            with self._sending:
                self._messages.send(message)

    def stop_requested(self) -> StopReason | None:
        return None

    def _end_with_the_first(self) -> None:
        self._messages.receive()  # nothing ever comes: it returns when the first has closed its end
        os._exit(ORPHAN_EXIT_CODE)


if __name__ == "__main__":
    sys.exit(main())
