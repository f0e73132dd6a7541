"""QLoRA training, from a job's folders to an adapter: one method, read from top to bottom.

A run is a pure function of model, dataset and specification: the same seed gives the same adapter, and a run that
was stopped and went on from a checkpoint gives the adapter of one that never stopped, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice
from typing import Any

import torch

from trainer_svc.qlora.adapter_files import write_adapter
from trainer_svc.qlora.adapter_start import start_adapter
from trainer_svc.qlora.base_sharding import Lockstep, held_share, load_for_shards, shard_base, wants_sharding
from trainer_svc.qlora.batch_stream import BatchStream, FrameSource
from trainer_svc.qlora.best_adapter import note_evaluation
from trainer_svc.qlora.checkpoint import TrainState, save_checkpoint
from trainer_svc.qlora.checkpoint_folders import keep_rule
from trainer_svc.qlora.data_processor import Batch, DataProcessor
from trainer_svc.qlora.dataset_rows import Sample, load_samples, split_samples
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.encoder_cache import EncoderCache, open_encoder_cache
from trainer_svc.qlora.epoch_samples import frame_cache_bytes, samples_and_groups
from trainer_svc.qlora.errors import DiskTroubleError, NonFiniteLossError
from trainer_svc.qlora.length_buckets import LengthBuckets
from trainer_svc.qlora.loss import losses_by_sample, summed_loss
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
from trainer_svc.qlora.model_loader import BaseModel, LoadBase, load_base_model
from trainer_svc.qlora.optimizers import learning_rate_at, make_optimizer, set_learning_rate, unscale
from trainer_svc.qlora.qlora_injector import TrainableReport, check_gradients, inject, trainable
from trainer_svc.qlora.random_states import random_states
from trainer_svc.qlora.rank_allocation import allocate_ranks, rebuild
from trainer_svc.qlora.ranks import RankedRun, Ranks
from trainer_svc.qlora.resume import resume
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.run_identity import run_identity
from trainer_svc.qlora.sample_lengths import measure_lengths
from trainer_svc.qlora.sample_predictions import Answering, tell_predictions
from trainer_svc.qlora.sampler import SamplePlan
from trainer_svc.qlora.spec import SpecError, TrainingSpec
from trainer_svc.qlora.step_meter import StepMeter

_OVERFLOWS_ALLOWED = 20
"""Steps in a row that fp16 may lose while its scale is being found."""


@dataclass(frozen=True, slots=True)
class _Session:
    """What the steps work on."""

    run: RunContext
    spec: TrainingSpec
    base: BaseModel
    state: TrainState
    plan: SamplePlan
    training: list[Sample]
    held_out: list[Sample]
    pool: DecodePool
    identity: dict[str, Any]
    total_steps: int
    ranks: Ranks
    encoder: EncoderCache | None
    """Where the vision encoder is run apart."""
    shares_base: bool
    measured: dict[str, float] = field(default_factory=dict)
    """The newest loss, and the newest on the held-out samples."""

    @property
    def max_tokens(self) -> int:
        return self.spec.max_tokens or self.base.max_positions

    def clips_of(self, step: int) -> int:
        """How many clips a step shows, at all ranks together."""
        groups = replace(self.plan, rank=0, ranks=1).micro_batches(step)
        return sum(len(self.training[index].clips) for group in groups for index in group)

    def loss(self, batch: Batch) -> torch.Tensor:
        """See `summed_loss`."""
        whole = batch if self.encoder is None else self.encoder.complete(batch)
        return summed_loss(self.state.model, whole, self.base.device)

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `losses_by_sample`."""
        whole = batch if self.encoder is None else self.encoder.complete(batch)
        return losses_by_sample(self.state.model, whole, self.base.device)

    @property
    def lockstep(self) -> Lockstep:
        return Lockstep(self.ranks, self.shares_base, lambda: _first_batch(self))


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
    with ExitStack() as stack:
        # Decode processes start while the model loads.
        pool = stack.enter_context(DecodePool.of(spec.runtime))
        run.report(Starting("model"))
        shares_base = wants_sharding(spec, run.folders.model, ranks)
        load = load_for_shards if shares_base else load or load_base_model
        base = load(run.folders.model, spec.quantization)
        run.report(Starting("adapter"))
        session, report = _prepare(run, spec, base, training, held_out, pool, ranks, shares_base)
        start_step = resume(run, spec, base, session.state, ranks, session.identity)
        if start_step == 0:
            _start_adapter(session)
        run.report(_started(session, report, start_step))
        stream = stack.enter_context(_training_stream(session, start_step))
        _run_steps(session, stream, start_step)


def _run_steps(session: _Session, stream: BatchStream, start_step: int) -> None:
    run, spec = session.run, session.spec
    meter, loss, overflows = StepMeter(session.base.device), math.nan, 0
    if start_step < session.total_steps:
        run.report(Starting("first_step"))
    session.state.model.train()

    for step in range(start_step, session.total_steps):
        if reason := run.stop_requested():
            return _finish_stopped(session, step, reason)
        if session.state.evaluations.is_spent(spec.early_stopping.patience):
            return _finish_completed(session, step, loss)

        if step == spec.lora.rank_allocation.warmup_steps > 0 and session.state.allocation is None:
            _allocate_ranks(session, step)

        # One step of the optimizer over its micro-batches, every learned token weighing the same.
        rate = learning_rate_at(step, session.total_steps, spec.optimization)
        batches = [batch for _ in session.plan.micro_batches(step) for batch in next(stream)]
        counts = session.ranks.counts(batches)
        loss, norm = _backward(session, meter, batches, counts.targets, audit=step == start_step)
        with meter.phase("optimizer"):
            overflows = _update(session, batches, step, rate, loss, norm, overflows)
        meter.add(
            loss=loss,
            grad_norm=norm if math.isfinite(norm) else 0.0,
            samples=counts.samples,
            clips=session.clips_of(step),
            tokens=counts.tokens,
        )

        done = step + 1
        last = done == session.total_steps
        run.report(Progress(done, session.total_steps, session.plan.epoch_of(step), done / session.total_steps))
        if done % spec.log_every_steps == 0 or last:
            values = meter.take(learning_rate=rate, wait_seconds=stream.wait_seconds)
            run.report(Metrics(done, values | (session.encoder.take_metrics() if session.encoder else {})))
        paused = time.perf_counter()
        eval_loss = _evaluate(session, done) if _is_due(done, spec.evaluate_every_steps) or last else None
        if run.take_checkpoint_request() or (_is_due(done, spec.checkpoint_every_steps) and not last):
            _checkpoint(session, done, eval_loss)
        meter.skip(time.perf_counter() - paused)

    # A stop that came with the last step still wins: the owner asked for a stopped run.
    if run.stop_requested() is StopReason.USER:
        return _finish_stopped(session, session.total_steps, StopReason.USER)
    return _finish_completed(session, session.total_steps, loss)


def _backward(
    session: _Session, meter: StepMeter, batches: list[Batch], targets: int, *, audit: bool
) -> tuple[float, float]:
    """Gradients of one step, which has `targets` learned tokens at all ranks together: (mean loss of one of them,
    gradient norm before clipping)."""
    state, device = session.state, session.base.device
    total = torch.zeros((), device=device)
    state.optimizer.zero_grad(set_to_none=True)
    for batch, counts in session.lockstep.batches(batches):
        with meter.phase("forward"):
            loss = session.loss(batch) * (counts / targets)
        with meter.phase("backward"):
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    with meter.phase("optimizer"):
        total = session.ranks.merge(total, trainable(state.model).values())
        unscale(state.scaler, state.optimizer, device)
        if audit and not state.scaler.is_enabled() and bool(torch.isfinite(total)):
            check_gradients(state.model)
        limit = session.spec.optimization.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(trainable(state.model).values(), limit)
        return float(total), float(norm)


def _update(
    session: _Session, batches: list[Batch], step: int, rate: float, loss: float, norm: float, overflows: int
) -> int:
    """Applies the gradients. Returns how many steps in a row fp16 has lost to overflow."""
    state = session.state
    if not (math.isfinite(loss) and math.isfinite(norm)):
        overflows += 1
        if not math.isfinite(loss) or not state.scaler.is_enabled() or overflows > _OVERFLOWS_ALLOWED:
            names = session.ranks.gather([name for batch in batches for name in batch.sample_ids])
            raise NonFiniteLossError(step + 1, loss, norm, list(chain.from_iterable(names)))
    else:
        overflows = 0
        session.measured["loss"] = loss
    set_learning_rate(state.optimizer, rate)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return overflows


def _allocate_ranks(session: _Session, step: int) -> None:
    """Scores the adapter on the batches that come next, and goes on with one of ranks that differ by layer. Of several
    processes the first decides."""
    ranks, state = session.ranks, session.state
    report = ranks.decide(_score_and_allocate(session, step) if ranks.is_first else None)
    if not ranks.is_first:
        rebuild(session.base, session.spec, state, report)
    ranks.copy_from_first(trainable(state.model).values())
    ranks.seed(session.spec.optimization.seed)
    state.model.train()
    shares = ", ".join(f"{group} {share:.0%}" for group, share in report["shares"].items())
    each = [layer["rank"] for layer in report["layers"]]
    session.run.report(
        Log(
            "info",
            f"ranks allocated after {step} steps: {min(each)} to {max(each)} over {len(each)} layers; "
            f"{report['spent_parameters']:,} of {report['budget_parameters']:,} parameters, {shares}",
        )
    )


def _score_and_allocate(session: _Session, step: int) -> dict[str, Any]:
    state = session.state

    def backward(batch: Batch) -> None:
        loss = session.loss(batch) / batch.target_tokens
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLossError(step, float(loss), math.nan, list(batch.sample_ids))
        loss.backward()  # type: ignore[no-untyped-call]

    with _calibration_stream(session, step, session.spec.lora.rank_allocation.calibration_batches) as stream:
        return allocate_ranks(session.base, session.spec, state, chain.from_iterable(stream), backward)


def _start_adapter(session: _Session) -> None:
    """Gives the adapter what it is to begin with, where that takes more than random numbers."""
    if session.spec.lora.initialization == "default":
        return
    session.run.report(Starting("initialization"))
    base, model, folder = session.base, session.state.model, session.run.folders.model
    if session.ranks.is_first:
        stream = partial(_calibration_stream, session, 0)
        announce = partial(session.run.report, Starting("initialization"))
        told = start_adapter(base, model, session.spec, folder, stream, session.loss, announce)
        session.run.report(Log("info", told))
    session.ranks.copy_from_first(trainable(model).values())


def _calibration_stream(session: _Session, step: int, batches: int) -> BatchStream:
    """The batches that training on one device would take from `step` on, from a source and a processor of their own."""
    plan = replace(session.plan, rank=0, ranks=1)
    samples, ahead = samples_and_groups(session.training, plan, count(step), session.spec)
    source = FrameSource(session.pool, session.spec.sampling, cache_bytes=0)
    processor = DataProcessor(copy.deepcopy(session.base.processor), max_tokens=session.max_tokens)
    return BatchStream(samples, list(islice(ahead, batches)), source, processor, ahead=2, cache=session.encoder)


def _evaluate(session: _Session, step: int) -> float | None:
    """Mean loss of a learned token on the held-out samples, in their own order; None when there are none."""
    if not session.held_out:
        return None
    began = time.perf_counter()
    model, size = session.state.model, session.spec.optimization.batch_size
    groups = [
        list(range(first, min(first + size, len(session.held_out)))) for first in range(0, len(session.held_out), size)
    ][session.ranks.rank :: session.ranks.count]
    # Its own source and processor: those of training are in use by the thread that prepares the next steps.
    source = FrameSource(session.pool, session.spec.sampling, cache_bytes=0)
    processor = DataProcessor(copy.deepcopy(session.base.processor), max_tokens=session.max_tokens)
    total, targets = 0.0, 0.0
    losses: dict[str, float] = {}
    model.eval()
    stream = BatchStream(session.held_out, groups, source, processor, ahead=2, cache=session.encoder)
    with torch.no_grad(), stream:
        for batch, counts in session.lockstep.batches(chain.from_iterable(stream)):
            summed, by_sample = session.losses(batch)
            if counts:
                total += float(summed)
                losses.update(zip(batch.sample_ids, by_sample.tolist(), strict=True))
                targets += batch.target_tokens
    total, targets = session.ranks.totals([total, targets])
    if not math.isfinite(total):
        names = [sample.sample_id for sample in session.held_out]
        raise NonFiniteLossError(step, total, 0.0, names)
    for others in session.ranks.gather(losses):
        losses.update(others)
    if session.spec.sample_predictions.count:
        progress = Progress(step, session.total_steps, session.plan.epoch_of(step - 1), step / session.total_steps)
        answering = Answering(model, session.base, processor, session.pool, session.spec)
        tell_predictions(session.run, answering, session.held_out, losses, progress, is_first=session.ranks.is_first)
    model.train()
    loss = total / targets
    session.measured["eval_loss"] = loss
    note_evaluation(session.state, session.spec, step, loss, keeps=session.ranks.is_first)
    session.run.report(Metrics(step, {"eval_loss": loss, "eval_seconds": time.perf_counter() - began}))
    return loss


def _checkpoint(session: _Session, step: int, eval_loss: float | None = None) -> str | None:
    """Saves a checkpoint and returns its folder; None when the disk does not take it, which must not end the run."""
    ranks = session.ranks
    states = ranks.gather(random_states()) if ranks.count > 1 else []
    if not ranks.is_first:
        return None
    try:
        path = save_checkpoint(
            session.run.folders.checkpoints,
            session.state,
            step=step,
            identity=session.identity,
            keep=keep_rule(session.spec),
            eval_loss=eval_loss,
            ranks=states,
        )
    except DiskTroubleError as error:
        session.run.report(Log("warning", f"no checkpoint of step {step}: {error}; training goes on"))
        return None
    session.run.report(CheckpointSaved(step, str(path), eval_loss))
    return str(path)


def _finish_stopped(session: _Session, step: int, reason: StopReason) -> None:
    if step == 0:
        session.run.report(Stopped(reason, 0, None, None, None))
        return
    adapter_dir, manifest = None, None
    if reason is StopReason.USER:
        # First what the owner asked for, in case that there is no time for both.
        manifest = _write_adapter(session, step) if session.ranks.is_first else {}
        adapter_dir = str(session.run.folders.adapter)
    checkpoint = _checkpoint(session, step)
    session.run.report(Stopped(reason, step, adapter_dir, checkpoint, manifest))


def _finish_completed(session: _Session, steps: int, loss: float) -> None:
    if not session.ranks.is_first:
        return
    manifest = _write_adapter(session, steps)
    final_loss = loss if math.isfinite(loss) else 0.0
    early = ""
    if steps < session.total_steps:
        early = f"ended at step {steps} of {session.total_steps}: {session.state.evaluations.in_words()}"
    session.run.report(Completed(str(session.run.folders.adapter), manifest, steps, final_loss, early))


def _write_adapter(session: _Session, steps: int) -> dict[str, Any]:
    training = {
        "steps": steps,
        "total_steps": session.total_steps,
        "samples": len(session.training),
        "held_out_samples": len(session.held_out),
        "rows_sha256": session.identity["dataset"],
        "trained_parameters": sum(value.numel() for value in trainable(session.state.model).values()),
        **session.measured,
    }
    state = session.state
    if state.best is not None:
        training |= {"adapter_of_step": state.evaluations.best_step, "eval_loss": state.evaluations.best_loss}
        text = f"the adapter is that of step {state.evaluations.best_step}, with the lowest loss on held-out samples"
        session.run.report(Log("info", text))
    return write_adapter(
        session.run.folders.adapter,
        session.state.model,
        session.base,
        session.spec,
        training,
        allocation=session.state.allocation,
        tensors=state.best,
    )


def _prepare(
    run: RunContext,
    spec: TrainingSpec,
    base: BaseModel,
    training: list[Sample],
    held_out: list[Sample],
    pool: DecodePool,
    ranks: Ranks,
    shares_base: bool,
) -> tuple[_Session, TrainableReport]:
    wanted = spec.optimization
    model, report = inject(base, spec.lora, seed=wanted.seed, gradient_checkpointing=wanted.gradient_checkpointing)
    ranks.copy_from_first(trainable(model).values())
    ranks.seed(wanted.seed)
    if shares_base:
        shard_base(model, base.family, ranks, base.device)
        run.report(Log("info", f"the base is shared out: {held_share(model):.0%} of its layers at the first device"))
    optimizer = make_optimizer(trainable(model).values(), wanted)
    scaler = torch.amp.GradScaler(base.device.type, enabled=base.compute_dtype == torch.float16)
    accumulation = wanted.gradient_accumulation_steps
    plan = SamplePlan(len(training), wanted.batch_size, accumulation, wanted.seed, ranks.rank, ranks.count)
    if wanted.batch_by_length:
        announce = partial(run.report, Starting("adapter"))
        measure = partial(measure_lengths, training, pool, spec.sampling, base.family, announce)
        lengths = ranks.decide(measure() if ranks.is_first else None)
        plan = replace(plan, buckets=LengthBuckets(lengths, wanted.batch_size, wanted.seed))
    total_steps = plan.total_steps(wanted.epochs, wanted.max_steps)
    if spec.lora.rank_allocation.warmup_steps >= total_steps:
        raise SpecError(
            "lora.rank_allocation.warmup_steps",
            f"is not less than the {total_steps} steps that the run has",
            "lower it, or train longer",
        )
    return (
        _Session(
            run=run,
            spec=spec,
            base=base,
            state=TrainState(model, optimizer, scaler),
            plan=plan,
            training=training,
            held_out=held_out,
            pool=pool,
            identity=run_identity(run, spec, base),
            total_steps=total_steps,
            ranks=ranks,
            # Decided here and not after a resume, which may find layers of the encoder without an adapter: the run that
            # was never stopped has decided here, too.
            encoder=open_encoder_cache(run, spec, base, pool.decoder),
            shares_base=shares_base,
        ),
        report,
    )


def _started(session: _Session, report: TrainableReport, start_step: int) -> Started:
    return Started(
        total_steps=session.total_steps,
        start_step=start_step,
        trainable_parameters=report.parameters,
        total_parameters=session.base.audit.parameters + report.parameters,
        samples=len(session.training),
        eval_samples=len(session.held_out),
        device=session.ranks.name_of(session.base),
        decoder=session.pool.decoder,
        quantized_layers=session.base.audit.quantized_layers,
    )


def _training_stream(session: _Session, start_step: int) -> BatchStream:
    runtime = session.spec.runtime
    steps = range(start_step, session.total_steps)
    samples, groups = samples_and_groups(session.training, session.plan, steps, session.spec)
    source = FrameSource(session.pool, session.spec.sampling, cache_bytes=frame_cache_bytes(session.spec))
    processor = DataProcessor(session.base.processor, max_tokens=session.max_tokens)
    ahead = runtime.prefetch_batches
    return BatchStream(samples, groups, source, processor, ahead=ahead, cache=session.encoder)


def _first_batch(session: _Session) -> Batch:
    """For a rank that only keeps step with the others."""
    with _calibration_stream(session, 0, 1) as stream:
        return next(stream)[0]


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
