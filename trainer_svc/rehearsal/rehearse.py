"""Goes through a training without training: the same phases, steps, figures, checkpoints and ends, in the same order as
`trainer_svc.qlora.trainer`. A run that went on from a checkpoint makes the adapter of one that never stopped."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from trainer_svc.qlora.checkpoint_folders import keep_rule, newest_checkpoint
from trainer_svc.qlora.errors import BadDataError, DiskTroubleError
from trainer_svc.qlora.messages import (
    CheckpointSaved,
    Completed,
    Log,
    Metrics,
    Progress,
    Started,
    Starting,
    Stopped,
    StopReason,
)
from trainer_svc.qlora.model_folder import check_model_folder, file_sha256, fingerprint
from trainer_svc.qlora.run_context import JobFolders, RunContext
from trainer_svc.qlora.sampler import SamplePlan
from trainer_svc.rehearsal.files import (
    next_digest,
    read_rehearsal_checkpoint,
    write_rehearsal_adapter,
    write_rehearsal_checkpoint,
)
from trainer_svc.rehearsal.misbehavior import SLOW_STOP_STEPS, Mischief
from trainer_svc.rehearsal.spec import RehearsalSpec


@dataclass(slots=True)
class _Course:
    """A rehearsal under way."""

    run: RunContext
    spec: RehearsalSpec
    mischief: Mischief
    identity: dict[str, Any]
    plan: SamplePlan
    eval_samples: int
    total_steps: int
    digest: bytes
    step: int = 0
    """Steps done."""
    eval_step: int | None = None
    """After which step the loss on the held-out samples was measured last."""

    @property
    def loss(self) -> float:
        """Falls, and wavers by what the state happens to be."""
        return 1 / (1 + self.step / 10) + self.digest[0] / 25600

    @property
    def eval_loss(self) -> float:
        return 1.1 * self.loss


def rehearse(run: RunContext, spec: RehearsalSpec, mischief: Mischief) -> None:
    """Rehearses and reports; the last message is Completed or Stopped.

    Raises the typed errors of the training library, as ordered or because files are not as they should be.
    """
    course = _prepare(run, spec, mischief)
    _resume(course)
    run.report(Starting("first_step"))
    _misbehave(course, 0)
    run.report(_started(course))
    _run_steps(course)


def _run_steps(course: _Course) -> None:
    run, spec = course.run, course.spec.training
    while course.step < course.total_steps:
        if reason := course.mischief.stop_requested():
            return _finish_stopped(course, reason)
        time.sleep(course.spec.step_milliseconds / 1000)
        course.step += 1
        course.digest = next_digest(course.digest, course.step)
        done, last = course.step, course.step == course.total_steps
        epoch = course.plan.epoch_of(done - 1)
        run.report(Progress(done, course.total_steps, epoch, done / course.total_steps))
        if done % spec.log_every_steps == 0 or last:
            run.report(Metrics(done, {"loss": course.loss, "step_seconds": course.spec.step_milliseconds / 1000}))
        if _is_due(done, spec.evaluate_every_steps) or last:
            course.eval_step = done
            run.report(Metrics(done, {"eval_loss": course.eval_loss, "eval_seconds": 0.0}))
        if _is_due(done, spec.checkpoint_every_steps) and not last:
            _checkpoint(course)
        _misbehave(course, done)
    # A stop that came with the last step still wins: the owner asked for a stopped run.
    if course.mischief.stop_requested() is StopReason.USER:
        return _finish_stopped(course, StopReason.USER)
    manifest = _write_adapter(course)
    return run.report(Completed(str(run.folders.adapter), manifest, course.total_steps, course.loss))


def _prepare(run: RunContext, spec: RehearsalSpec, mischief: Mischief) -> _Course:
    run.report(Starting("dataset"))
    training, held_out, rows_sha256 = _read_rows(run.folders)
    run.report(Starting("model"))
    check_model_folder(run.folders.model)
    model = fingerprint(run.folders.model)
    run.report(Starting("adapter"))
    wanted = spec.training.optimization
    plan = SamplePlan(training, wanted.batch_size, wanted.gradient_accumulation_steps, wanted.seed)
    total_steps = plan.total_steps(wanted.epochs, wanted.max_steps)
    identity = {"base model": model, "dataset": rows_sha256, "seed": wanted.seed, "steps": total_steps}
    return _Course(
        run=run,
        spec=spec,
        mischief=mischief,
        identity=identity,
        plan=plan,
        eval_samples=held_out,
        total_steps=total_steps,
        digest=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest(),
    )


def _read_rows(folders: JobFolders) -> tuple[int, int, str]:
    """(samples to train on, samples held out, digest). Raises `BadDataError` for a clip that is not there."""
    rows = folders.dataset / "rows.jsonl"
    splits = {"train": 0}
    with rows.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            splits[row["split"]] = splits.get(row["split"], 0) + 1
            for part in (part for message in row["messages"] for part in message["content"]):
                if part["type"] == "video" and not (folders.dataset / part["uri"]).is_file():
                    raise BadDataError(f"{part['uri']} of sample {row['sample_id']} is not there", "upload it again")
    if not splits["train"]:
        raise BadDataError("no row is of the split 'train'", "give rows to train on")
    return splits.pop("train"), sum(splits.values()), file_sha256(rows)


def _resume(course: _Course) -> None:
    found, damaged = newest_checkpoint(course.run.folders.checkpoints, course.identity)
    for path in damaged:
        course.run.report(Log("warning", f"checkpoint {path.name} is damaged and was passed over"))
    if found is not None:
        course.run.report(Starting("resume"))
        course.step, course.digest = read_rehearsal_checkpoint(found)
        course.run.report(Log("info", f"going on from {found.name}"))


def _started(course: _Course) -> Started:
    return Started(
        total_steps=course.total_steps,
        start_step=course.step,
        trainable_parameters=course.spec.artifact_bytes,
        total_parameters=course.spec.artifact_bytes,
        samples=course.plan.samples,
        eval_samples=course.eval_samples,
        device="none",
        decoder="none",
        quantized_layers=0,
    )


def _misbehave(course: _Course, step: int) -> None:
    for kind in course.spec.due(step):
        course.mischief.commit(kind, step)


def _checkpoint(course: _Course) -> str | None:
    eval_loss = course.eval_loss if course.eval_step == course.step else None
    try:
        path = write_rehearsal_checkpoint(
            course.run.folders.checkpoints,
            course.digest,
            course.spec.checkpoint_bytes,
            step=course.step,
            identity=course.identity,
            keep=keep_rule(course.spec.training),
            eval_loss=eval_loss,
        )
    except DiskTroubleError as error:
        course.run.report(Log("warning", f"no checkpoint of step {course.step}: {error}; training goes on"))
        return None
    course.run.report(CheckpointSaved(course.step, str(path), eval_loss))
    return str(path)


def _finish_stopped(course: _Course, reason: StopReason) -> None:
    if course.mischief.is_slow_to_stop:
        time.sleep(SLOW_STOP_STEPS * course.spec.step_milliseconds / 1000)
    if course.step == 0:
        course.run.report(Stopped(reason, 0, None, None, None))
        return
    adapter_dir, manifest = None, None
    if reason is StopReason.USER:
        manifest = _write_adapter(course)
        adapter_dir = str(course.run.folders.adapter)
    checkpoint = _checkpoint(course)
    course.run.report(Stopped(reason, course.step, adapter_dir, checkpoint, manifest))


def _write_adapter(course: _Course) -> dict[str, Any]:
    return write_rehearsal_adapter(
        course.run.folders.adapter, course.digest, course.spec.artifact_bytes, steps=course.step
    )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
