"""Where a training run lives: what it tells, whom it obeys, where its files are. One for a cluster's child, one for
a local folder; the training itself knows no difference. Imports no training library."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, Self, TextIO

from trainer_svc.qlora.messages import (
    CheckpointSaved,
    Completed,
    Failed,
    Idle,
    Log,
    Message,
    MessageSocket,
    Metrics,
    Predicted,
    Progress,
    Started,
    Starting,
    Stop,
    Stopped,
    StopReason,
    TrainingUp,
)

ORPHAN_EXIT_CODE = 3
_ORPHAN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class JobFolders:
    """A run's inputs, and the folder it may write to."""

    model: Path
    dataset: Path
    out: Path
    cache: Path | None = None
    """What runs may share; None: each has its own, in its out folder."""
    owner_digest: str = ""
    """Keeps what one owner's runs share from another's; empty where there is one alone."""

    @classmethod
    def of_job(cls, job: Path) -> Self:
        """The folders of a cluster's job: model/, dataset/ and out/ in it; where the trainer shares one, cache/ and the
        file owner_digest."""
        cache, owner = job / "cache", job / "owner_digest"
        return cls(
            job / "model",
            job / "dataset",
            job / "out",
            cache if cache.is_dir() else None,
            owner.read_text(encoding="ascii") if owner.is_file() else "",
        )

    @property
    def adapter(self) -> Path:
        return self.out / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def encoder_cache(self) -> Path:
        return (self.cache or self.out) / "encoder_outputs"


class RunContext(Protocol):
    """What `trainer.train` needs of its surroundings."""

    @property
    def folders(self) -> JobFolders: ...

    def report(self, message: TrainingUp) -> None:
        """Tells whoever watches."""

    def stop_requested(self) -> StopReason | None:
        """Whether to stop at the next step boundary, and why. Once set it stays set."""


class _Orders:
    """What was asked of the run, by whatever thread or signal."""

    def __init__(self) -> None:
        self._stop: StopReason | None = None

    def stop_requested(self) -> StopReason | None:
        return self._stop

    def request_stop(self, reason: StopReason) -> None:
        """The first reason stays, except that an owner's stop wins over a drain. Safe in a signal handler."""
        if self._stop is not StopReason.USER:
            self._stop = reason if self._stop is None or reason is StopReason.USER else self._stop


class PipeRun(_Orders):
    """The run of a trainer's child: typed messages over an inherited socket.

    When the other end is gone nobody will collect the result: the run stops at the next step boundary, and the
    process ends after 20 s in any case.
    """

    def __init__(self, folders: JobFolders, socket: MessageSocket, *, obeys: bool = True) -> None:
        """`obeys`: reads orders itself; else somebody else does, and calls `take` and `abandon`."""
        super().__init__()
        self.folders = folders
        self.orphaned = False
        self._socket = socket
        self._sending = threading.Lock()
        if obeys:
            threading.Thread(target=self._obey, name="orders", daemon=True).start()

    def report(self, message: TrainingUp) -> None:
        try:
            with self._sending:
                self._socket.send(message)
        except OSError:
            self.abandon()

    def take(self, order: Message) -> None:
        """Obeys an order."""
        if isinstance(order, Stop):
            self.request_stop(order.reason)

    def _obey(self) -> None:
        try:
            while (order := self._socket.receive()) is not None:
                self.take(order)
        finally:
            # Closed, reset or gone mad (MessageError): either way nobody steers this run any more.
            self.abandon()

    def abandon(self) -> None:
        """Takes the other end for gone."""
        if not self.orphaned:
            self.orphaned = True
            self.request_stop(StopReason.DRAIN)
            timer = threading.Timer(_ORPHAN_SECONDS, os._exit, (ORPHAN_EXIT_CODE,))
            timer.daemon = True
            timer.start()


class LocalRun(_Orders):
    """A run with no cluster: plain lines on a terminal, `metrics.jsonl` in the out folder."""

    def __init__(self, folders: JobFolders, output: TextIO | None = None) -> None:
        super().__init__()
        self.folders = folders
        self.failed = False
        self._output = output or sys.stdout
        folders.out.mkdir(parents=True, exist_ok=True)
        self._metrics = (folders.out / "metrics.jsonl").open("a", encoding="utf-8")

    def report(self, message: TrainingUp) -> None:
        self.failed = self.failed or isinstance(message, Failed)
        if isinstance(message, Metrics):
            self._metrics.write(json.dumps(asdict(message)) + "\n")
            self._metrics.flush()
        line = _line(message)
        if line:
            self._output.write(line + "\n")
            self._output.flush()

    def close(self) -> None:
        self._metrics.close()


def _line(message: TrainingUp) -> str | None:
    """One message as a person reads it; None for those that another line says better."""
    match message:
        case Starting(phase):
            return f"starting: {phase}"
        case Started():
            return (
                f"training {message.trainable_parameters:,} of {message.total_parameters:,} parameters on "
                f"{message.samples} samples for {message.total_steps} steps ({message.device}, {message.decoder})"
            )
        case Metrics(step, values):
            return f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        case Predicted():
            return _answers(message)
        case Log(level, text):
            return f"{level}: {text}"
        case CheckpointSaved(step, path):
            return f"checkpoint of step {step}: {path}"
        case Completed():
            early = f"; {message.early_end}" if message.early_end else ""
            return f"completed after {message.steps} steps: adapter in {message.adapter_dir}{early}"
        case Stopped():
            where = message.adapter_dir or message.checkpoint or "nothing was saved"
            return f"stopped ({message.reason}) after {message.step} steps: {where}"
        case Failed():
            return f"failed: {message.reason}: {message.message}; {message.next_step}"
        case Progress() | Idle():
            return None


def _answers(message: Predicted) -> str:
    told = [("best", each) for each in message.best] + [("worst", each) for each in message.worst]
    lines = (
        f"{rank} {each['sample_id']}  loss {each['loss']:.4g}  {each['generated']!r}, expected {each['expected']!r}"
        for rank, each in told
    )
    return "\n".join([f"step {message.step}  answers:", *lines])
