"""The first rank of a run on several devices starts the others, watches them, and ends with whichever is lost.

The group lives and dies as one: the scheduler launches the whole of it again, from the newest checkpoint. Others end
with the first when its socket closes, and all are in one process group, which the trainer kills whole. Standard library
only, so that the others start while the first still imports.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trainer_svc.qlora.failures import as_failure
from trainer_svc.qlora.launch import child_environment
from trainer_svc.qlora.launched_rank import LaunchedRank
from trainer_svc.qlora.messages import Failed, FailureReason, Log, MessageError, MessageSocket, Stopped, StopReason
from trainer_svc.qlora.quick_imports import quick_imports
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.spec import TrainingSpec

if TYPE_CHECKING:
    from trainer_svc.qlora.ranks import Ranks

_STORE = "store"
_SPEC = "spec.json"
_CAUSE_SECONDS = 10.0
_LEAVE_SECONDS = 20.0
_LOOK_UP_SECONDS = 0.2
_LOST_EXIT_CODE = 1


def train_together(run: RunContext, spec: TrainingSpec) -> None:
    """Trains as rank 0 of `spec.runtime.devices`; see `trainer.train`. A stop is heard while the others are awaited,
    too."""
    try:
        _train_as_first(run, spec)
    except _StoppedBeforeError as stopped:
        run.report(Stopped(stopped.reason, 0, None, None, None))


def _train_as_first(run: RunContext, spec: TrainingSpec) -> None:
    count, inherited = spec.runtime.devices, dict(os.environ)
    os.environ.update(rank_environment(0, inherited))
    with RankGroup(run, spec, inherited) as group:
        with quick_imports():
            from trainer_svc.qlora.ranks import Ranks
            from trainer_svc.qlora.trainer import train

        try:
            with _meet_unless_stopped(run, lambda: Ranks.join(group.folder / _STORE, 0, count)) as ranks:
                train(run, share_threads(spec), ranks)
        except _StoppedBeforeError:
            raise
        except Exception as error:
            # Mostly the echo of what happened to another: the one that watches it knows the cause, and ends us.
            if as_failure(error).reason in (FailureReason.INTERNAL, FailureReason.RANK_LOST):
                group.await_cause()
            raise


def join_rank(run: RunContext, folder: Path, rank: int) -> None:
    """Trains as a rank other than 0, by what the first has put into the group's `folder`."""
    with quick_imports():
        from trainer_svc.qlora.ranks import Ranks
        from trainer_svc.qlora.trainer import train

    spec = TrainingSpec.from_dict(json.loads((folder / _SPEC).read_text(encoding="utf-8")))
    with Ranks.join(folder / _STORE, rank, spec.runtime.devices) as ranks:
        train(run, share_threads(spec), ranks)


def join_launched(run: RunContext, spec: TrainingSpec, launched: LaunchedRank) -> None:
    """Trains as a rank that others have started, and watch; see `trainer.train`."""
    os.environ.update(launched_environment(launched.local_rank, os.environ))
    from trainer_svc.qlora.ranks import Ranks
    from trainer_svc.qlora.trainer import train

    with Ranks.join(None, launched.rank, launched.count) as ranks:
        train(run, share_threads(spec), ranks)


def share_threads(spec: TrainingSpec) -> TrainingSpec:
    """The specification for one of several ranks: on a CPU they share its threads."""
    import torch

    if torch.cuda.is_available():
        return spec
    threads = spec.runtime.threads or len(os.sched_getaffinity(0))
    return replace(spec, runtime=replace(spec.runtime, threads=max(1, threads // spec.runtime.devices)))


def rank_environment(rank: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """What a rank's environment has of its own: one device, of those that are visible, and talk by loopback alone."""
    visible = inherited.get("CUDA_VISIBLE_DEVICES")
    devices = [str(rank)] if visible is None else visible.split(",")[rank : rank + 1]
    return {"CUDA_VISIBLE_DEVICES": "".join(devices), "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def launched_environment(local_rank: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """What the environment of a rank that others have started lacks: its one device of those that are visible to all.
    A launcher that shows each rank its own alone has chosen it."""
    visible = inherited.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and len(visible.split(",")) <= local_rank:
        return {}
    return {"CUDA_VISIBLE_DEVICES": rank_environment(local_rank, inherited)["CUDA_VISIBLE_DEVICES"]}


class RankGroup:
    """The other ranks of a run, from their start to their end. When one is lost before, this process reports why and
    ends: what it was doing, it cannot go on with."""

    def __init__(self, run: RunContext, spec: TrainingSpec, inherited: Mapping[str, str]) -> None:
        """`inherited`: the environment that a run on one device would have."""
        self._run = run
        self._spec = spec
        self._inherited = inherited
        self._stack = ExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._watchers: list[threading.Thread] = []
        self._ending = threading.Lock()
        self._is_over = False
        self.folder = Path()
        """Where the ranks meet."""

    def __enter__(self) -> Self:
        # In the run's own folder, which goes with it however the ranks end.
        self._run.folders.out.mkdir(parents=True, exist_ok=True)
        meeting = tempfile.TemporaryDirectory(prefix="ranks-", dir=self._run.folders.out)
        self.folder = Path(self._stack.enter_context(meeting))
        (self.folder / _SPEC).write_text(json.dumps(self._spec.to_dict()), encoding="utf-8")
        for rank in range(1, self._spec.runtime.devices):
            self._start(rank)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watcher in self._watchers if kind is None else ():
            watcher.join(_LEAVE_SECONDS)
        with self._ending:  # from here on, no end of a rank is a loss
            self._is_over = True
        for process in self._processes:
            process.kill()
            process.wait()
        self._stack.close()

    def await_cause(self) -> None:
        """Waits for a watcher to end this process for what has happened to its rank; returns when none does."""
        threading.Event().wait(_CAUSE_SECONDS)

    def _start(self, rank: int) -> None:
        ours, theirs = socket.socketpair()
        folders = self._run.folders
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "trainer_svc.qlora.rank_child", "--rank", str(rank)),
                    *("--group", str(self.folder), "--message-fd", str(theirs.fileno())),
                    *("--model", str(folders.model), "--dataset", str(folders.dataset), "--out", str(folders.out)),
                    *(("--cache", str(folders.cache)) if folders.cache else ()),
                ],
                env={
                    **child_environment(self._spec.runtime.threads, base=self._inherited),
                    **rank_environment(rank, self._inherited),
                },
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._processes.append(process)
        watcher = threading.Thread(
            target=self._watch, args=(rank, process, MessageSocket(ours)), name=f"rank-{rank}", daemon=True
        )
        self._watchers.append(watcher)
        watcher.start()

    def _watch(self, rank: int, process: subprocess.Popen[bytes], messages: MessageSocket) -> None:
        name = f"rank {rank} of {self._spec.runtime.devices}"
        try:
            while (message := messages.receive()) is not None:
                if isinstance(message, Failed):
                    self._lose(message)
                elif isinstance(message, Log):
                    self._run.report(Log(message.level, f"{name}: {message.text}"))
        except MessageError as error:
            self._lose(_lost(f"{name} spoke nonsense: {error}"))
        if code := process.wait():
            self._lose(_lost(f"{name} {_ending(code)}"))

    def _lose(self, failed: Failed) -> None:
        with self._ending:
            if self._is_over:
                return
            self._run.report(failed)
            # The thread that trains waits in a meeting that never ends: there is no way back from there.
            os._exit(_LOST_EXIT_CODE)


def _meet_unless_stopped(run: RunContext, join: Callable[[], Ranks]) -> Ranks:
    """What `join` returns. Raises `_StoppedBeforeError`, and what `join` raises.

    Beside this thread, which signals wake: they do not wake one that waits in PyTorch for a rank that never comes.
    """
    met: Future[Ranks] = Future()

    def meet() -> None:
        try:
            met.set_result(join())
        # All of it, for it is raised in the thread that waits.
        except BaseException as error:
            met.set_exception(error)

    threading.Thread(target=meet, name="meeting", daemon=True).start()
    while not wait([met], _LOOK_UP_SECONDS).done:
        reason = run.stop_requested()
        # With a checkpoint there is an adapter to be made of it, for an owner who stops the run.
        if reason is StopReason.DRAIN or (reason and not any(run.folders.checkpoints.glob("*"))):
            raise _StoppedBeforeError(reason)
    return met.result()


class _StoppedBeforeError(Exception):
    """The run is to stop, and has not begun."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def _lost(words: str) -> Failed:
    return Failed(FailureReason.RANK_LOST, words, "the run goes on from its newest checkpoint when it is started again")


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL, mostly by a system short of memory)"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
