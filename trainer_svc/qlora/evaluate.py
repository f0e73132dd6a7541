"""Asks base and tuned model the same rows and measures their answers: one method, read from top to bottom.

An evaluation is a pure function of model, adapter, rows and specification; one that was stopped and went on from a
checkpoint finds what one that never stopped finds. A step is a row, under all conditions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer_svc.qlora.after_training_spec import FRAME_ORDERS, Condition, EvaluationSpec
from trainer_svc.qlora.answering import Answerer, Exam
from trainer_svc.qlora.batch_stream import FrameSource
from trainer_svc.qlora.checkpoint_folders import keep_rule, newest_checkpoint, write_checkpoint
from trainer_svc.qlora.dataset_rows import Clip, Sample, load_samples
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadClipError, BadDataError, DiskTroubleError
from trainer_svc.qlora.evaluation_report import AnsweredRow, build_report, measured, report_card
from trainer_svc.qlora.folder_files import write_folder, write_json
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.lookout import BrokenOffError, Lookout
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
from trainer_svc.qlora.model_folder import file_sha256
from trainer_svc.qlora.model_loader import BaseModel, load_base_model
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.spec import TrainingSpec
from trainer_svc.qlora.video_controls import foreign_clips, has_order, reversed_frames, shuffled_frames

ANSWERS = "answers.jsonl"
REPORT = "evaluation.json"
_FRAME_CACHE_BYTES = 128 << 20


@dataclass(slots=True)
class _Evaluation:
    """An evaluation under way."""

    run: RunContext
    spec: TrainingSpec
    wanted: EvaluationSpec
    samples: Sequence[Sample]
    foreign: Sequence[tuple[Clip, ...] | None]
    answerer: Answerer
    frames: FrameSource
    identity: dict[str, Any]
    done: list[AnsweredRow] = field(default_factory=list)

    @property
    def artifact(self) -> Path:
        return self.run.folders.out / "artifact"


def evaluate(run: RunContext, spec: TrainingSpec, wanted: EvaluationSpec, adapter: Path) -> None:
    """Evaluates the adapter on every row of the dataset and reports; the last message is Completed or Stopped.

    Raises the typed errors of this package (see `failures`).
    """
    if spec.runtime.threads:
        torch.set_num_threads(spec.runtime.threads)
    run.report(Starting("dataset"))
    samples = load_samples(run.folders.dataset)
    if not samples:
        raise BadDataError("there is no row to ask about", "name a split that has rows")
    with ExitStack() as stack:
        pool = stack.enter_context(DecodePool.of(spec.runtime))
        run.report(Starting("model"))
        base = load_base_model(run.folders.model, spec.quantization)
        run.report(Starting("adapter"))
        evaluation = _Evaluation(
            run=run,
            spec=spec,
            wanted=wanted,
            samples=samples,
            foreign=foreign_clips(samples, wanted.seed),
            answerer=Answerer(base, adapter, max_tokens=spec.max_tokens or base.max_positions),
            frames=FrameSource(pool, spec.sampling, _FRAME_CACHE_BYTES),
            identity=_identity(run, spec, wanted, adapter, base),
        )
        _resume(evaluation)
        run.report(_started(evaluation, base, pool))
        _ask_all(evaluation)


def _ask_all(evaluation: _Evaluation) -> None:
    run, total = evaluation.run, len(evaluation.samples)
    if len(evaluation.done) < total:
        run.report(Starting("first_step"))
    while (step := len(evaluation.done)) < total:
        if reason := run.stop_requested():
            return _finish_stopped(evaluation, reason)
        began = time.perf_counter()
        try:
            evaluation.done.append(_ask(evaluation, step))
        except BrokenOffError:
            continue  # the row counts as not asked
        done = step + 1
        run.report(Progress(done, total, 0, done / total))
        if done % evaluation.spec.log_every_steps == 0 or done == total:
            run.report(Metrics(done, {**_running_means(evaluation.done), "step_seconds": time.perf_counter() - began}))
        every = evaluation.spec.checkpoint_every_steps
        if every and done % every == 0 and done < total:
            _checkpoint(evaluation)
    # A stop that came with the last row still wins: the owner asked for a stopped run.
    if run.stop_requested() is StopReason.USER:
        return _finish_stopped(evaluation, StopReason.USER)
    manifest = _write_artifact(evaluation)
    loss = _running_means(evaluation.done)["tuned_loss"]
    return run.report(Completed(str(evaluation.artifact), manifest, total, loss))


def _ask(evaluation: _Evaluation, index: int) -> AnsweredRow:
    """One row under all conditions. The next row's clips decode meanwhile. Raises `BrokenOffError` when the run is to
    stop."""
    sample, foreign = evaluation.samples[index], evaluation.foreign[index]
    exam = Exam.of(sample)
    total = len(evaluation.samples)
    sign = Progress(index, total, 0, index / total) if index else Starting("first_step")
    lookout = Lookout(evaluation.run, sign)
    own = _take(evaluation, sample, sample.clips, lookout)
    shown: dict[Condition, Callable[[], list[DecodedFrames]]] = {
        Condition.BASE: lambda: own,
        Condition.TUNED: lambda: own,
        Condition.SHUFFLED_CLIPS: lambda: _take(evaluation, sample, foreign or (), lookout),
        Condition.REVERSED_FRAMES: lambda: [reversed_frames(clip) for clip in own],
        Condition.SHUFFLED_FRAMES: lambda: [
            shuffled_frames(clip, f"{evaluation.wanted.seed} {sample.sample_id} {number}")
            for number, clip in enumerate(own)
        ],
    }
    _prefetch(evaluation, index)
    answers = {}
    for condition in evaluation.wanted.conditions:
        if condition is Condition.SHUFFLED_CLIPS and foreign is None:
            continue
        if condition in FRAME_ORDERS and not has_order(own):
            continue
        frames, tuned = shown[condition](), condition is not Condition.BASE
        text = evaluation.answerer.answer(
            exam,
            frames,
            tuned=tuned,
            max_new_tokens=evaluation.wanted.max_new_tokens,
            temperature=evaluation.wanted.temperature,
            seed=f"{evaluation.wanted.seed} {sample.sample_id} {condition}",
            lookout=lookout,
        )
        answers[condition] = measured(text, exam.reference, evaluation.answerer.loss(sample, frames, tuned=tuned))
    return AnsweredRow(sample.sample_id, exam.question, exam.reference, answers, sample.tags)


def _take(evaluation: _Evaluation, sample: Sample, clips: Sequence[Clip], lookout: Lookout) -> list[DecodedFrames]:
    try:
        return [evaluation.frames.take(clip, lookout.look_up) for clip in clips]
    except BadClipError as error:
        raise BadDataError(f"sample {sample.sample_id}: {error}", "replace the clip or remove its rows") from error


def _prefetch(evaluation: _Evaluation, index: int) -> None:
    following = index + 1
    if following < len(evaluation.samples):
        for clip in evaluation.samples[following].clips:
            evaluation.frames.prefetch(clip)
    if Condition.SHUFFLED_CLIPS in evaluation.wanted.conditions:
        for clip in evaluation.foreign[index] or ():
            evaluation.frames.prefetch(clip)


def _running_means(rows: Sequence[AnsweredRow]) -> dict[str, float]:
    means = {}
    for condition in (Condition.BASE, Condition.TUNED):
        answers = [row.answers[condition] for row in rows]
        means[f"{condition.lower()}_exact_match"] = sum(each.exact_match for each in answers) / len(answers)
        means[f"{condition.lower()}_loss"] = sum(each.loss for each in answers) / sum(each.tokens for each in answers)
    return means


def _identity(
    run: RunContext, spec: TrainingSpec, wanted: EvaluationSpec, adapter: Path, base: BaseModel
) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from: all that changes an answer."""
    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():
        raise BadDataError("the job to evaluate holds no adapter", "name a training job")
    return {
        "base model": base.fingerprint,
        "adapter": file_sha256(weights),
        "dataset": file_sha256(run.folders.dataset / "rows.jsonl"),
        "evaluation": json.loads(json.dumps(asdict(wanted))),
        "sampling": asdict(spec.sampling),
        "quantization": asdict(spec.quantization),
    }


def _resume(evaluation: _Evaluation) -> None:
    found, damaged = newest_checkpoint(evaluation.run.folders.checkpoints, evaluation.identity)
    for path in damaged:
        evaluation.run.report(Log("warning", f"checkpoint {path.name} is damaged and was passed over"))
    if found is None:
        return
    evaluation.run.report(Starting("resume"))
    with (found / ANSWERS).open(encoding="utf-8") as lines:
        evaluation.done = [AnsweredRow.from_dict(json.loads(line)) for line in lines]
    evaluation.run.report(Log("info", f"going on after row {len(evaluation.done)}"))


def _started(evaluation: _Evaluation, base: BaseModel, pool: DecodePool) -> Started:
    return Started(
        total_steps=len(evaluation.samples),
        start_step=len(evaluation.done),
        trainable_parameters=0,
        total_parameters=base.audit.parameters,
        samples=len(evaluation.samples),
        eval_samples=len(evaluation.samples),
        device=base.device_name,
        decoder=pool.decoder,
        quantized_layers=base.audit.quantized_layers,
    )


def _checkpoint(evaluation: _Evaluation) -> str | None:
    """Saves the answers so far; None when the disk does not take them, which must not end the run."""
    step = len(evaluation.done)
    try:
        path = write_checkpoint(
            evaluation.run.folders.checkpoints,
            {},
            lambda building: _write_answers(building, evaluation.done),
            step=step,
            identity=evaluation.identity,
            keep=keep_rule(evaluation.spec),
        )
    except DiskTroubleError as error:
        evaluation.run.report(Log("warning", f"no checkpoint after row {step}: {error}; the evaluation goes on"))
        return None
    evaluation.run.report(CheckpointSaved(step, str(path)))
    return str(path)


def _finish_stopped(evaluation: _Evaluation, reason: StopReason) -> None:
    step = len(evaluation.done)
    if not step:
        evaluation.run.report(Stopped(reason, 0, None, None, None))
        return
    folder, manifest = None, None
    if reason is StopReason.USER:
        manifest = _write_artifact(evaluation)
        folder = str(evaluation.artifact)
    evaluation.run.report(Stopped(reason, step, folder, _checkpoint(evaluation), manifest))


def _write_artifact(evaluation: _Evaluation) -> dict[str, Any]:
    notes = []
    if evaluation.wanted.split == "train":
        notes.append("these rows are of the split `train`: the adapter may have been trained on them")
    report = build_report(evaluation.done, evaluation.wanted, total_rows=len(evaluation.samples), notes=notes)

    def fill(building: Path) -> None:
        _write_answers(building, evaluation.done)
        write_json(building / REPORT, report)
        (building / "README.md").write_text(report_card(report), "utf-8")

    return write_folder(evaluation.artifact, fill)


def _write_answers(folder: Path, rows: Sequence[AnsweredRow]) -> None:
    with (folder / ANSWERS).open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row.to_dict(), ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
