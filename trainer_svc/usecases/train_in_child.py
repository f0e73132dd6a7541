"""Follow a training child from its start to its end, whatever that is."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn

import structlog

from trainer_svc import metrics
from trainer_svc.child.deadline import ProgressDeadline
from trainer_svc.child.process import ChildProcess
from trainer_svc.domain.attempt import (
    AdapterMade,
    AttemptFailed,
    CheckpointRefused,
    Drained,
    FailReason,
    Outcome,
    Recipe,
    RemoteFile,
    SavedCheckpoint,
    StoppedEmpty,
)
from trainer_svc.domain.last_words import last_words
from trainer_svc.domain.limits import AttemptLimits
from trainer_svc.domain.reports import LogLine, MetricPoint, Prediction, Predictions, Progress, TrainingStarted
from trainer_svc.qlora import messages
from trainer_svc.usecases.live_attempt import LiveAttempt
from trainer_svc.usecases.warm_child import WarmChild

LaunchTraining = Callable[[Path], Awaitable[ChildProcess]]
"""Starts the training child for a job folder."""
Meter = Callable[[LiveAttempt, int], Coroutine[Any, Any, NoReturn]]
"""Reports what the device does while the process of that id trains, until it is cancelled."""

_PHASES = {
    "dataset": "reading dataset",
    "model": "loading model",
    "adapter": "making adapter",
    "resume": "restoring checkpoint",
    "initialization": "initialising adapter",
    "first_step": "first step",
}
_REASONS = {
    messages.FailureReason.BAD_SPEC: FailReason.BAD_PARAMETERS,
    messages.FailureReason.BAD_DATA: FailReason.BAD_DATA,
    messages.FailureReason.OUT_OF_MEMORY: FailReason.OUT_OF_MEMORY,
    messages.FailureReason.NON_FINITE_LOSS: FailReason.NON_FINITE_LOSS,
    messages.FailureReason.MODEL_UNSUPPORTED: FailReason.MODEL_UNSUPPORTED,
    messages.FailureReason.STORAGE_UNAVAILABLE: FailReason.STORAGE_UNAVAILABLE,
    messages.FailureReason.RANK_LOST: FailReason.CRASHED,
    messages.FailureReason.DECODER_LOST: FailReason.CRASHED,
    messages.FailureReason.DEVICE_LOST: FailReason.CRASHED,
    messages.FailureReason.INTERNAL: FailReason.INTERNAL,
}
_DOING = {Recipe.EVALUATION: "evaluating", Recipe.MERGE: "merging"}
_TRAINING = (Recipe.QLORA, Recipe.REHEARSAL)
_LEVELS = ("debug", "info", "warning", "error")


async def train_in_child(
    attempt: LiveAttempt,
    folder: Path,
    *,
    launch: LaunchTraining,
    limits: AttemptLimits,
    on_checkpoint: Callable[[SavedCheckpoint], None],
    warm: WarmChild | None = None,
    meter: Meter | None = None,
) -> Outcome:
    """Trains the job in `folder` and returns how that ended; the child is gone then, however this returns, unless
    `warm` gave it and takes it back with the adapter that it has made.

    `on_checkpoint` is told of each checkpoint, the one of a stop included, and must not block.
    """
    child = await (launch(folder) if warm is None else warm.launch(folder, attempt.claim))
    log = structlog.get_logger().bind(job_id=attempt.claim.job_id, attempt=attempt.claim.attempt)
    log.info("child.started", pid=child.pid)
    outcome: Outcome | None = None
    metering = None if meter is None else asyncio.create_task(meter(attempt, child.pid), name="device-meter")
    try:
        outcome = await _Supervision(attempt, folder, child, limits, on_checkpoint).follow()
    finally:
        if metering is not None:
            metering.cancel()
            await asyncio.gather(metering, return_exceptions=True)
        if warm is None:
            await child.kill()
        elif isinstance(outcome, AdapterMade):
            warm.keep(child, attempt.claim)
        else:
            await warm.discard(child)
    log.info("child.ended", outcome=type(outcome).__name__)
    return outcome


class _Supervision:
    def __init__(
        self,
        attempt: LiveAttempt,
        folder: Path,
        child: ChildProcess,
        limits: AttemptLimits,
        on_checkpoint: Callable[[SavedCheckpoint], None],
    ) -> None:
        self._attempt = attempt
        self._folder = folder
        self._child = child
        self._limits = limits
        self._on_checkpoint = on_checkpoint
        self._deadline = ProgressDeadline(loading=limits.loading, training=limits.progress)
        self._grace_ends: float | None = None
        self._has_stepped = False
        self._loss: float | None = None
        self._steps = metrics.STEPS.labels(attempt.claim.recipe)
        self._metered_step = 0

    async def follow(self) -> Outcome:
        receiving = asyncio.create_task(self._child.receive())
        orders: dict[asyncio.Task[Any], messages.StopReason] = {
            asyncio.create_task(self._attempt.stop_ordered.wait()): messages.StopReason.USER,
            asyncio.create_task(self._attempt.drain_ordered.wait()): messages.StopReason.DRAIN,
        }
        try:
            while True:
                pending = [order for order in orders if not order.done()]
                done, _ = await asyncio.wait(
                    {receiving, *pending}, timeout=self._seconds_left(), return_when=asyncio.FIRST_COMPLETED
                )
                for order in done.intersection(orders):
                    await self._order_stop(orders[order])
                if receiving in done:
                    outcome = await self._take(receiving)
                    if outcome is not None:
                        return outcome
                    receiving = asyncio.create_task(self._child.receive())
                    # A child that talks without a pause is late all the same.
                    if self._is_grace_spent:
                        return self._overdue()
                elif not done and self._seconds_left() <= 0:
                    return self._overdue()
        finally:
            for task in (receiving, *orders):
                task.cancel()
            await asyncio.gather(receiving, *orders, return_exceptions=True)

    def _seconds_left(self) -> float:
        left = self._deadline.remaining
        if self._grace_ends is not None:
            left = min(left, self._grace_ends - time.monotonic())
        return max(0.0, left)

    async def _order_stop(self, reason: messages.StopReason) -> None:
        grace = self._limits.stop_grace if reason is messages.StopReason.USER else self._limits.drain_grace
        ends = time.monotonic() + grace
        self._grace_ends = ends if self._grace_ends is None else min(ends, self._grace_ends)
        self._attempt.show_phase("stopping")
        await self._child.send(messages.Stop(reason))

    async def _take(self, receiving: asyncio.Task[messages.Message | None]) -> Outcome | None:
        try:
            message = receiving.result()
        except messages.MessageError as error:
            return AttemptFailed(FailReason.CRASHED, f"the training process spoke nonsense: {error}")
        if message is None:
            return await self._crashed()
        self._deadline.note(message)
        outcome = self._handle(message)
        if self._attempt.reports.is_full:
            # The scheduler is behind: the child waits with us rather than anything being lost.
            await self._attempt.wait_for_room()
            self._deadline.postpone()
        return outcome

    def _handle(self, message: messages.Message) -> Outcome | None:
        match message:
            case messages.Starting(phase):
                self._attempt.show_phase(_PHASES.get(phase, phase))
            case messages.Started():
                self._started(message)
            case messages.Progress():
                self._progressed(message)
            case messages.Metrics(step, values):
                self._loss = values.get("loss", self._loss)
                self._count(step, values)
                self._attempt.report(MetricPoint(step, _contract_names(values)))
            case messages.Predicted(step, best, worst):
                self._attempt.report(Predictions(step, _predictions(best), _predictions(worst)))
            case messages.Log(level, text):
                self._attempt.report(LogLine(level if level in _LEVELS else "info", text))
            case messages.CheckpointSaved(step, path, eval_loss):
                self._on_checkpoint(SavedCheckpoint(step, Path(path), eval_loss))
            case messages.Completed(adapter_dir, manifest, early_end=early_end):
                return self._adapter_made(adapter_dir, manifest, early_end)
            case messages.Stopped():
                return self._stopped(message)
            case messages.Failed(reason, text, next_step):
                return _failed(reason, text, next_step)
        return None

    def _count(self, step: int, values: Mapping[str, float]) -> None:
        if "loss" in values:
            metrics.LOSS.set(values["loss"])
        if "step_seconds" in values and self._attempt.claim.recipe in _TRAINING:
            metrics.count_steps(max(0, step - self._metered_step), values)
            self._metered_step = step

    def _started(self, message: messages.Started) -> None:
        self._metered_step = message.start_step
        fraction = message.start_step / message.total_steps if message.total_steps else 0.0
        self._attempt.report(Progress(self._doing, message.start_step, message.total_steps, fraction=fraction))
        self._attempt.report(LogLine("info", _summary(message, self._doing)))

    def _progressed(self, message: messages.Progress) -> None:
        if not self._has_stepped:
            self._has_stepped = True
            self._attempt.report(TrainingStarted(message.total_steps))
        self._steps.inc()
        metrics.PROGRESS.set(message.fraction)
        phase = self._doing if self._grace_ends is None else "stopping"
        self._attempt.report(
            Progress(phase, message.step, message.total_steps, message.epoch, message.fraction, self._loss)
        )

    def _adapter_made(self, adapter_dir: str, manifest: dict[str, Any] | None, early_end: str = "") -> Outcome:
        adapter = Path(adapter_dir)
        if not adapter.resolve().is_relative_to(self._folder.resolve()):
            return AttemptFailed(FailReason.INTERNAL, "the training process named an adapter outside its folder")
        entries = (manifest or {}).get("files", [])
        files = tuple(RemoteFile(file["path"], file["size"], file["sha256"]) for file in entries)
        return AdapterMade(adapter, files, early_end)

    def _stopped(self, message: messages.Stopped) -> Outcome:
        if message.reason is messages.StopReason.DRAIN:
            return Drained(message.step)
        if message.adapter_dir is None:
            return StoppedEmpty()
        return self._adapter_made(message.adapter_dir, message.manifest)

    async def _crashed(self) -> Outcome:
        code = await self._child.wait_for_exit()
        metrics.CHILDREN_LOST.labels("training", "crashed").inc()
        ending = _ending(code)
        words = last_words(self._child.last_lines, {str(self._folder): "<job>"})
        structlog.get_logger().warning(
            "child.crashed", job_id=self._attempt.claim.job_id, exit_code=code, last_lines=words
        )
        said = f"; its last words: {words}" if words else ""
        return AttemptFailed(FailReason.CRASHED, f"the training process {ending} without a word{said}")

    @property
    def _doing(self) -> str:
        return _DOING.get(self._attempt.claim.recipe, "training")

    @property
    def _is_grace_spent(self) -> bool:
        return self._grace_ends is not None and time.monotonic() >= self._grace_ends

    def _overdue(self) -> Outcome:
        metrics.CHILDREN_LOST.labels("training", "hung").inc()
        if self._is_grace_spent:
            if self._attempt.stop_ordered.is_set():
                return AttemptFailed(FailReason.STALLED, "the training process did not stop when told to: killed")
            return Drained(self._attempt.progress.step)
        deadline = self._deadline
        return AttemptFailed(
            FailReason.STALLED,
            f"no progress for {deadline.limit:.0f} s at {deadline.phase!r}: the training process was killed; "
            "if it happens again, look for a clip or a device that hangs in the job's log",
        )


def _summary(message: messages.Started, doing: str) -> str:
    """What is about to happen, as a line of the job's log."""
    if not message.trainable_parameters:
        return (
            f"{doing} a model of {message.total_parameters:,} parameters, {message.quantized_layers} layers quantised; "
            f"{message.samples} rows; steps {message.start_step + 1} to {message.total_steps} "
            f"on {message.device}, frames by {message.decoder}"
        )
    parts = [
        f"training {message.trainable_parameters:,} of {message.total_parameters:,} parameters",
        f"{message.quantized_layers} layers quantised",
        f"{message.samples} samples and {message.eval_samples} held out",
        f"steps {message.start_step + 1} to {message.total_steps}",
        f"on {message.device}, frames by {message.decoder}",
    ]
    return "; ".join(parts)


def _predictions(told: list[dict[str, Any]]) -> tuple[Prediction, ...]:
    return tuple(
        Prediction(
            sample_id=str(each["sample_id"]),
            question=str(each["question"]),
            expected=str(each["expected"]),
            generated=str(each["generated"]),
            loss=float(each["loss"]),
            is_cut=bool(each["is_cut"]),
        )
        for each in told
    )


def _contract_names(values: dict[str, float]) -> dict[str, float]:
    return {{"peak_memory_bytes": "memory_bytes"}.get(name, name): value for name, value in values.items()}


def _failed(reason: messages.FailureReason, text: str, next_step: str) -> Outcome:
    if reason is messages.FailureReason.CHECKPOINT_MISMATCH:
        return CheckpointRefused(text)
    return AttemptFailed(_REASONS[reason], f"{text}; {next_step}" if next_step else text)


def _ending(code: int | None) -> str:
    if code is None:
        return "closed its connection"
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL, mostly by a system short of memory)"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
