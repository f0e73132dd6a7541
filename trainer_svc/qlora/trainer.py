"""QLoRA training, from a job's folders to an adapter: one method, read from top to bottom.

A run is a pure function of model, dataset and specification: the same seed gives the same adapter, and a run that
was stopped and went on from a checkpoint gives the adapter of one that never stopped, bit for bit on a CPU.
"""

from __future__ import annotations

import math
from contextlib import ExitStack

import torch

from trainer_svc.qlora.base_sharding import load_for_shards, wants_sharding
from trainer_svc.qlora.batch_stream import BatchStream
from trainer_svc.qlora.calibrated_adapter import give_start, reallocate_ranks
from trainer_svc.qlora.data_processor import Batch, DataProcessor
from trainer_svc.qlora.dataset_rows import load_samples, split_samples
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.gradient_watch import GradientWatch
from trainer_svc.qlora.held_out import measure_held_out
from trainer_svc.qlora.lookout import BrokenOffError
from trainer_svc.qlora.messages import (
    Log,
    Metrics,
    Progress,
    Starting,
    StopReason,
)
from trainer_svc.qlora.model_loader import LoadBase, load_base_model
from trainer_svc.qlora.optimizers import learning_rate_at, set_learning_rate, unscale
from trainer_svc.qlora.parting_checkpoint import parting_checkpoint
from trainer_svc.qlora.qlora_injector import trainable
from trainer_svc.qlora.ranks import RankedRun, Ranks
from trainer_svc.qlora.resume import resume
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.run_results import finish_completed, finish_stopped, keep_checkpoint
from trainer_svc.qlora.sample_checks import check_samples
from trainer_svc.qlora.spec import TrainingSpec
from trainer_svc.qlora.step_meter import StepMeter
from trainer_svc.qlora.training_session import Session, prepare_session, started, training_stream


def train(run: RunContext, spec: TrainingSpec, ranks: Ranks | None = None, *, load: LoadBase | None = None) -> None:
    """Trains and reports; the last message is Completed or Stopped. `ranks`: the processes that train together, of
    which this is one; `load`: in place of `load_base_model`.

    Raises the typed errors of this package (see `failures`): nothing of a failed run counts but its checkpoints.
    """
    spec.validate()
    if spec.runtime.threads:
        torch.set_num_threads(spec.runtime.threads)
    ranks = ranks or Ranks()
    if ranks.count > 1:
        run = RankedRun(run, ranks)
    run.report(Starting("dataset"))
    training, held_out = split_samples(load_samples(run.folders.dataset), spec.eval_fraction)
    check_samples(spec, training, held_out)
    with ExitStack() as stack:
        # Decode processes start while the model loads.
        pool = stack.enter_context(DecodePool.of(spec.runtime))
        run.report(Starting("model"))
        shares_base = wants_sharding(spec, run.folders.model, ranks, lambda words: run.report(Log("warning", words)))
        load = load_for_shards if shares_base else load or load_base_model
        base = load(run.folders.model, spec.quantization)
        run.report(Starting("adapter"))
        session, report = prepare_session(run, spec, base, training, held_out, pool, ranks, shares_base)
        DataProcessor(base.processor, max_tokens=session.max_tokens).check_words([*training, *held_out])
        start_step = resume(run, spec, base, session.state, ranks, session.identity)
        try:
            if start_step == 0:
                give_start(session)
        except BrokenOffError as broken:
            finish_stopped(session, start_step, broken.reason)
            return
        run.report(started(session, report, start_step))
        stream = stack.enter_context(training_stream(session, start_step))
        _run_steps(session, stream, start_step)


def _run_steps(session: Session, stream: BatchStream, start_step: int) -> None:
    meter = StepMeter(session.base.device)
    if start_step < session.total_steps:
        session.run.report(Starting("first_step"))
    session.state.model.train()
    done, reason = _steps(session, stream, meter, start_step)
    _tell_figures(session, stream, meter, done)
    # A stop that came with the last step still wins: the owner asked for a stopped run.
    if reason is None and done == session.total_steps and session.run.stop_requested() is StopReason.USER:
        reason = StopReason.USER
    if reason is None:
        finish_completed(session, done)
    else:
        finish_stopped(session, done, reason)


def _steps(session: Session, stream: BatchStream, meter: StepMeter, start_step: int) -> tuple[int, StopReason | None]:
    """All steps that are still to do. Returns how many are done, and why they end before the last where they are to
    stop; None where held-out samples say that there is nothing more to learn, too."""
    run, spec = session.run, session.spec
    watch = GradientWatch(session)
    with meter.paused():
        reason = _pause(session, start_step, measures=True) if session.state.owes_measurement else None
    if reason:
        return start_step, reason

    for step in range(start_step, session.total_steps):
        if reason := run.stop_requested():
            return step, reason
        if session.state.held_out_losses.is_spent(spec.early_stopping.patience):
            return step, None

        try:
            if step == spec.lora.rank_allocation.warmup_steps > 0 and session.state.allocation is None:
                with meter.paused(), parting_checkpoint(session, step):
                    reallocate_ranks(session, step)
            with parting_checkpoint(session, step):
                _step(session, stream, meter, watch, step)
        except BrokenOffError as broken:
            return step, broken.reason

        done = step + 1
        last = done == session.total_steps
        run.report(Progress(done, session.total_steps, session.plan.epoch_of(step), done / session.total_steps))
        if done % spec.log_every_steps == 0 or last:
            _tell_figures(session, stream, meter, done)
        with meter.paused():
            reason = _pause(session, done, measures=_is_due(done, spec.evaluate_every_steps) or last)
        if reason:
            return done, reason
    return session.total_steps, None


def _tell_figures(session: Session, stream: BatchStream, meter: StepMeter, done: int) -> None:
    """Those of the steps that none were told of, if there are any."""
    if meter.steps:
        values = meter.take(wait_seconds=stream.wait_seconds)
        session.run.report(Metrics(done, values | (session.encoder.take_metrics() if session.encoder else {})))


def _step(session: Session, stream: BatchStream, meter: StepMeter, watch: GradientWatch, step: int) -> None:
    """One step of the optimizer over its micro-batches, every learned token weighing the same.

    Raises `BrokenOffError` when the run is to stop before its batches are there: nothing has changed then.
    """
    rate = learning_rate_at(step, session.total_steps, session.spec.optimization)
    batches = [batch for _ in session.plan.micro_batches(step) for batch in next(stream)]
    counts = session.ranks.counts(batches)
    loss, norm = _backward(session, meter, watch, batches, counts.targets, step)
    with meter.phase("optimizer"):
        watch.note(batches, step, loss, norm)
        set_learning_rate(session.state.optimizer, rate)
        session.state.scaler.step(session.state.optimizer)
        session.state.scaler.update()
    meter.add(
        loss=loss,
        grad_norm=norm,
        learning_rate=rate,
        samples=counts.samples,
        clips=session.clips_of(step),
        tokens=counts.tokens,
    )


def _pause(session: Session, step: int, *, measures: bool) -> StopReason | None:
    """Between two steps: measures on the held-out samples, and keeps a checkpoint where one is due. Returns why the run
    is to stop when it heard so in the midst of measuring; who goes on from here measures first."""
    eval_loss = None
    try:
        if measures:
            with parting_checkpoint(session, step, owes_measurement=True):
                eval_loss = measure_held_out(session, step)
    except BrokenOffError as broken:
        session.state.owes_measurement = True
        return broken.reason
    session.state.owes_measurement = False
    if _is_due(step, session.spec.checkpoint_every_steps) and step < session.total_steps:
        keep_checkpoint(session, step, eval_loss)
    return None


def _backward(
    session: Session, meter: StepMeter, watch: GradientWatch, batches: list[Batch], targets: int, step: int
) -> tuple[float, float]:
    """Gradients of one step, which has `targets` learned tokens at all ranks together: (mean loss of one of them,
    gradient norm before clipping)."""
    state, device = session.state, session.base.device
    total = torch.zeros((), device=device)
    state.optimizer.zero_grad(set_to_none=True)
    for batch, counts in session.even_batches.batches(batches):
        with meter.phase("forward"):
            loss = session.loss(batch) * (counts / targets)
        with meter.phase("backward"):
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    with meter.phase("optimizer"):
        total = session.ranks.merge(total, trainable(state.model).values())
        unscale(state.scaler, state.optimizer, device)
        watch.audit(step, total)
        limit = session.spec.optimization.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(trainable(state.model).values(), limit)
        return float(total), float(norm)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
